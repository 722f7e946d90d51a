"""SSIM of 8-bit frames (Wang et al. 2004), for RGB and luma."""

import cv2
import numpy as np

from star_jax.evaluation.metrics.metric import FrameScorer, Metric
from star_jax.evaluation.metrics.psnr import PEAK, luma

WINDOW = 11
SIGMA = 1.5


def ssim(frame: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity, mean over the channels.

    It uses a Gaussian window of 11x11 pixels with sigma 1.5, K1 = 0.01 and K2 = 0.03, and averages over the windows
    that lie within the frame.

    Args:
      frame: uint8 [H, W] or [H, W, C], H and W at least 11.
      truth: uint8 of the same shape.
    """
    if frame.ndim == 3:  # channel by channel, as single planes fit the cache
        return float(np.mean([ssim(frame[..., c], truth[..., c]) for c in range(frame.shape[-1])]))
    x, y = frame.astype(np.float32), truth.astype(np.float32)
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    product, squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    covariance = _window_mean(x * y) - product
    variances = _window_mean(x * x + y * y) - squares
    similarity = (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))
    return float(np.mean(similarity, dtype=np.float64))


def _window_mean(image: np.ndarray) -> np.ndarray:
    blurred = cv2.GaussianBlur(image, (WINDOW, WINDOW), SIGMA)
    edge = WINDOW // 2
    return blurred[edge:-edge, edge:-edge]


SSIM = Metric(
    "SSIM",
    4,
    True,
    lambda *_: FrameScorer(ssim),
    "Gaussian window 11x11, sigma 1.5, K1 .01, K2 .03, windows within the frame; mean of R, G and B",
    smallest_side=WINDOW,
)
SSIM_Y = Metric(
    "SSIM-Y",
    4,
    True,
    lambda *_: FrameScorer(lambda frame, truth: ssim(luma(frame), luma(truth))),
    "the same of BT.601 luma in full range, rounded to 8 bits (pyiqa)",
    smallest_side=WINDOW,
)
