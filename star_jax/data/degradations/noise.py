"""Sensor noise on 8-bit frames: additive Gaussian and Poisson, in colour or in grey."""

import functools

import cv2
import numpy as np
from scipy import special

_QUANTILES = 4096


def gaussian_noise(frame: np.ndarray, sigma: float, grey: bool, rng: np.random.Generator) -> np.ndarray:
    """Adds Gaussian noise.

    Args:
      frame: uint8 [H, W, 3].
      sigma: standard deviation in levels (0..255).
      grey: whether all three channels get the same noise.

    Returns:
      uint8 [H, W, 3], rounded and clipped.
    """
    noise = rng.standard_normal(_noise_shape(frame, grey), dtype=np.float32)
    noise *= np.float32(sigma)
    return cv2.add(frame, _in_colour(noise), dtype=cv2.CV_8U)


def poisson_noise(frame: np.ndarray, scale: float, grey: bool, rng: np.random.Generator) -> np.ndarray:
    """Adds `scale` times the deviation of a Poisson draw whose mean is the level itself (8-bit photon counts).

    Real-ESRGAN counts the distinct levels of a frame and rounds up to a power of two, which is almost always 256.
    The count is fixed at 256 here, so that the noise of a clip does not jump when a frame has fewer levels.

    Args:
      frame: uint8 [H, W, 3].
      scale: 1 is the noise of a Poisson process: variance = level.
      grey: whether all three channels share one draw per pixel, from its luma.

    Returns:
      uint8 [H, W, 3], rounded and clipped.
    """
    level = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) if grey else frame
    draw = rng.integers(0, 1 << 16, level.shape, dtype=np.uint16) >> 4
    index = level.astype(np.int32)
    index <<= 12
    index |= draw
    noise = _poisson_quantiles().take(index) * np.float32(scale)
    return cv2.add(frame, _in_colour(noise), dtype=cv2.CV_8U)


def _noise_shape(frame: np.ndarray, grey: bool) -> tuple[int, ...]:
    return frame.shape[:2] if grey else frame.shape


def _in_colour(noise: np.ndarray) -> np.ndarray:
    return cv2.merge([noise] * 3) if noise.ndim == 2 else noise


@functools.cache
def _poisson_quantiles() -> np.ndarray:
    """Poisson(level) - level: 4,096 equally likely values for each level 0..255; int8 [256 * 4096].

    Looking values up in a table is ten times faster than one Poisson draw per pixel; the table leaves out the
    tails beyond one in 8,192.
    """
    counts = np.arange(400)
    quantile = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    table = np.zeros((256, _QUANTILES), np.int8)
    for level in range(1, 256):
        table[level] = np.searchsorted(special.pdtr(counts, level), quantile) - level
    return table.ravel()
