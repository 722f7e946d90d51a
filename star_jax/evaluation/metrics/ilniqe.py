"""IL-NIQE (Zhang, Zhang and Bovik 2015): NIQE with colour, gradients and log-Gabor responses. No ground truth.

Each block has 234 features at two scales: normalised luminance, gradient magnitudes of three opponent channels
(Weibull), log colours (Gaussian), gradients and filter responses with their gradients (generalised Gaussians) and
their magnitudes (Weibull). Principal components of all 468 features are compared with those of natural images.
"""

import functools
import math
from collections.abc import Iterator

import numpy as np
from scipy.ndimage import convolve, convolve1d
from scipy.optimize import fmin

from star_jax.evaluation.metrics.metric import FrameScorer, Metric, Networks
from star_jax.evaluation.metrics.natural_scenes import (
    in_blocks,
    luminance_features,
    normalised,
    resize,
    symmetric_features,
)

SIDE = 524  # every frame is resized to this height and width
BLOCK = 84
_BLOCKS = SIDE // BLOCK
_OPPONENTS = np.array(
    [[0.3, 0.04, -0.35], [0.34, -0.6, 0.17], [0.06, 0.63, 0.27]]
)  # the last is the luminance
_EPSILON = np.finfo(np.float64).eps
_LARGEST_FEATURE = 10000


def ilniqe(natural: dict[str, np.ndarray], frame: np.ndarray) -> float:
    """IL-NIQE of a frame; lower is more natural. It takes seconds.

    Args:
      natural: statistics of `ilniqe`: mean [430], covariance [430, 430], feature_mean [468], components [468, 430].
      frame: uint8 [H, W, 3], RGB.
    """
    side = _BLOCKS * BLOCK
    image = np.clip(resize(frame.astype(np.float64), SIDE, SIDE), 0, 255)[:side, :side]
    channels = [image[..., i] for i in range(3)]
    opponents = [image @ weights for weights in _OPPONENTS]
    features = []
    for scale in (1, 2):
        features.append(_features(channels, opponents, scale))
        channels, opponents = ([_halved(plane) for plane in planes] for planes in (channels, opponents))
    return _distance(natural, np.minimum(np.concatenate(features, axis=1), _LARGEST_FEATURE))


def _distance(natural: dict[str, np.ndarray], features: np.ndarray) -> float:
    """The mean distance of the blocks' features [N, 468] from the features of natural images."""
    components = (features - natural["feature_mean"]) @ natural["components"]
    whole = components[~np.isnan(components).any(axis=1)]
    inverse = np.linalg.pinv((natural["covariance"] + np.cov(whole, rowvar=False)) / 2)
    components = np.where(np.isnan(components), np.nanmean(components, axis=0), components)
    difference = components - natural["mean"]
    return float(np.mean(np.sqrt(np.einsum("ni,ij,nj->n", difference, inverse, difference))))


def _features(channels: list[np.ndarray], opponents: list[np.ndarray], scale: int) -> np.ndarray:
    """The 234 features of each block at a scale, [N, 234], in the authors' order."""
    size = BLOCK // scale
    luminance = opponents[-1]
    gradients = [_gradient(plane, scale) for plane in opponents]
    responses = list(_log_gabor_responses(luminance, scale))
    response_gradients = [_gradient(plane, scale) for plane in responses]
    window = _gaussian(5, 5 / 6)
    blocks = functools.partial(in_blocks, size=size)
    groups = [luminance_features(blocks(normalised(luminance, window)))]
    groups += [_weibull_features(blocks(_magnitude(*pair))) for pair in gradients]
    groups += [_gaussian_features(blocks(plane)) for plane in _log_colours(channels)]
    planes = [plane for pair in gradients for plane in pair] + responses
    planes += [plane for pair in response_gradients for plane in pair]
    groups += [symmetric_features(blocks(plane)) for plane in planes]
    groups += [_weibull_features(blocks(_magnitude(*pair))) for pair in response_gradients]
    return np.concatenate(groups, axis=1)


def _log_colours(channels: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Intensity, blue-yellow and red-green of the mean-free logarithms (Ruderman et al. 1998)."""
    red, green, blue = (np.log(plane + 1e-5) - np.mean(np.log(plane + 1e-5)) for plane in channels)
    yield (red + green + blue) / np.sqrt(3)
    yield (red + green - 2 * blue) / np.sqrt(6)
    yield (red - green) / np.sqrt(2)


def _gradient(plane: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Convolutions with the derivatives of a Gaussian along x and along y, zeros beyond the border."""
    sigma = 1.66 / scale**0.28
    reach = math.ceil(3 * sigma)
    at = np.arange(-reach, reach + 1)
    bell = np.exp(-(at**2) / (2 * sigma**2))

    def filtered(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return convolve1d(convolve1d(plane, rows, axis=0, mode="constant"), columns, axis=1, mode="constant")

    return filtered(bell, at * bell), filtered(at * bell, bell)


def _magnitude(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x**2 + y**2) + _EPSILON


def _log_gabor_responses(plane: np.ndarray, scale: int) -> Iterator[np.ndarray]:
    """Even and odd responses at three wavelengths in four orientations."""
    spectrum = np.fft.fft2(plane)
    for response_filter in _log_gabor_filters(*plane.shape, 2.4 / scale**0.87):
        response = np.fft.ifft2(response_filter * spectrum)
        yield response.real
        yield response.imag


@functools.cache
def _log_gabor_filters(height: int, width: int, shortest: float) -> list[np.ndarray]:
    """Filters in the frequency plane [H, W], by wavelength, then by orientation; H and W even."""
    y, x = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    radius, theta = np.hypot(x, y), np.arctan2(-y, x)
    radius[0, 0] = 1
    spread = math.pi / 4 / 1.10
    filters = []
    for octave in range(3):
        radial = np.exp(-(np.log(radius * shortest * 1.31**octave) ** 2) / (2 * math.log(0.55) ** 2))
        radial[0, 0] = 0
        for orientation in range(4):
            turned = theta - orientation * math.pi / 4
            away = np.abs(np.arctan2(np.sin(turned), np.cos(turned)))
            filters.append(radial * np.exp(-(away**2) / (2 * spread**2)))
    return filters


def _gaussian_features(blocks: np.ndarray) -> np.ndarray:
    flat = blocks.reshape(len(blocks), -1)
    return np.stack([flat.mean(axis=1), flat.var(axis=1)], axis=1)


def _weibull_features(blocks: np.ndarray) -> np.ndarray:
    """Scale and shape of the Weibull distribution of each block, [N, 2]."""
    return np.array([_fit_weibull(block.reshape(-1))[::-1] for block in blocks])


def _fit_weibull(values: np.ndarray) -> np.ndarray:
    """Shape and scale of maximum likelihood, by the authors' search (tolerance 0.01)."""
    logs = np.log(values)
    total = logs.sum()

    def cost(parameters: np.ndarray) -> float:
        shape, scale = parameters
        if shape <= 0 or scale <= 0:
            return math.nan
        powers = np.exp(shape * (logs - math.log(scale)))
        count = len(values)
        return -(
            count * math.log(shape / scale) + (shape - 1) * (total - count * math.log(scale)) - powers.sum()
        )

    shape = 1.2 / np.std(logs)
    start = [shape, math.exp(np.mean(logs) + 0.572 / shape)]
    return fmin(cost, start, xtol=0.01, ftol=0.01, disp=0)


def _halved(plane: np.ndarray) -> np.ndarray:
    return convolve(plane, _gaussian(6, 0.9), mode="nearest")[::2, ::2]


def _gaussian(size: int, sigma: float) -> np.ndarray:
    at = np.arange(size) - (size - 1) / 2
    window = np.exp(-(at[:, None] ** 2 + at**2) / (2 * sigma**2))
    window[window < _EPSILON * window.max()] = 0
    return window / window.sum()


def _scorer(networks: Networks, _num_frames: int) -> FrameScorer:
    natural = {name: np.asarray(value, np.float64) for name, value in networks["ilniqe"].items()}
    return FrameScorer(lambda frame, _truth: ilniqe(natural, frame))


ILNIQE = Metric(
    "IL-NIQE",
    3,
    False,
    _scorer,
    "524x524 by MATLAB's imresize, blocks 84x84, the authors' template (their Python script)",
    needs_truth=False,
    networks=("ilniqe",),
)
