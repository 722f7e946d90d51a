"""Parts of NIQE and IL-NIQE in float64: normalised luminance, fits of generalised Gaussians, MATLAB's resize."""

import functools

import numpy as np
from scipy.ndimage import convolve
from scipy.special import gamma

# Candidate shapes of a generalised Gaussian, and the ratio of moments of each.
_SHAPES = np.arange(0.2, 10.001, 0.001)
_RATIOS = gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES))
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # neighbours: right, below, and on both diagonals


def normalised(image: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Mean-subtracted contrast-normalised luminance [H, W] (equation 1 of NIQE)."""
    mean = convolve(image, window, mode="nearest")
    deviation = np.sqrt(np.abs(convolve(image**2, window, mode="nearest") - mean**2))
    return (image - mean) / (deviation + 1)


def fit_asymmetric(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Asymmetric generalised Gaussians of blocks [N, n]: shape, left scale and right scale, [N] each."""
    negative, positive = blocks < 0, blocks > 0
    squares = blocks**2
    with np.errstate(divide="ignore", invalid="ignore"):  # a block without either sign has no fit: NaN
        left = np.sqrt(np.sum(squares * negative, axis=1) / negative.sum(axis=1))
        right = np.sqrt(np.sum(squares * positive, axis=1) / positive.sum(axis=1))
        skew = left / right
        ratio = np.mean(np.abs(blocks), axis=1) ** 2 / np.mean(squares, axis=1)
        ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shape = _SHAPES[_nearest(ratio)]
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * scale, right * scale


def _nearest(ratio: np.ndarray) -> np.ndarray:
    """Index of the nearest of the increasing _RATIOS; NaN gives the first index, as with argmin."""
    ratio = np.where(np.isnan(ratio), -1, ratio)
    above = np.clip(np.searchsorted(_RATIOS, ratio), 1, len(_RATIOS) - 1)
    closer_below = ratio - _RATIOS[above - 1] <= _RATIOS[above] - ratio
    return np.where(closer_below, above - 1, above)


def symmetric_features(blocks: np.ndarray) -> np.ndarray:
    """Shape and mean scale of blocks [N, h, w]: [N, 2]."""
    shape, left, right = fit_asymmetric(blocks.reshape(len(blocks), -1))
    return np.stack([shape, (left + right) / 2], axis=1)


def luminance_features(blocks: np.ndarray) -> np.ndarray:
    """The 18 features of normalised luminance: blocks [N, h, w] to [N, 18].

    They are shape and scale of the values, and shape, mean and both scales of the products of neighbours in four
    directions.
    """
    features = [symmetric_features(blocks)]
    for shift in _SHIFTS:
        products = blocks * np.roll(blocks, shift, axis=(1, 2))
        shape, left, right = fit_asymmetric(products.reshape(len(blocks), -1))
        mean = (right - left) * gamma(2 / shape) / gamma(1 / shape)
        features.append(np.stack([shape, mean, left, right], axis=1))
    return np.concatenate(features, axis=1)


def in_blocks(image: np.ndarray, size: int) -> np.ndarray:
    """Splits [H, W] into blocks [N, size, size], column by column; H and W are multiples of size."""
    height, width = image.shape
    blocks = image.reshape(height // size, size, width // size, size)
    return blocks.transpose(2, 0, 1, 3).reshape(-1, size, size)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """MATLAB's imresize of [H, W] or [H, W, C]: bicubic (a = -0.5), widened for shrinking, mirrored at the border.

    It is computed in float32, as in the authors' Python scripts: IL-NIQE takes the logarithm of channels near 0,
    and the published figures depend on these last digits. The axis that shrinks more comes first.
    """
    sizes = (height, width)
    for axis in np.argsort([new / old for new, old in zip(sizes, image.shape, strict=False)], kind="stable"):
        taken, weights = _taps(image.shape[axis], sizes[axis])
        pixels = np.moveaxis(image.astype(np.float32), axis, 0)
        weights = weights.reshape(*weights.shape, *(1,) * (image.ndim - 1))
        image = np.moveaxis(np.sum(pixels[taken] * weights, axis=1), 0, axis)
    return image.astype(np.float64)


@functools.cache
def _taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the old pixels that contribute to each new pixel, and their weights: [new, n] each."""
    scale = new / old
    shrink = min(scale, 1.0)
    width = 4 / shrink
    centre = np.arange(1, new + 1, dtype=np.float32) / np.float32(scale) + np.float32(0.5 * (1 - 1 / scale))
    first = np.floor(centre - np.float32(width / 2)).astype(int)  # counted from 1, like `centre`
    taken = first[:, None] + np.arange(int(np.ceil(width)) + 2)
    weights = _cubic((shrink * (centre[:, None] - taken - 1)).astype(np.float32))
    weights /= weights.sum(axis=1, keepdims=True)
    mirror = np.concatenate([np.arange(old), np.arange(old)[::-1]])
    return mirror[taken % (2 * old)], weights


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    square = x**2
    cube = square * x
    inner = 1.5 * cube - 2.5 * square + 1
    outer = -0.5 * cube + 2.5 * square - 4 * x + 2
    return np.where(x <= 1, inner, np.where(x <= 2, outer, 0))
