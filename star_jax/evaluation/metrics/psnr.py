"""PSNR of 8-bit frames, for RGB and two kinds of luma."""

import math

import cv2
import numpy as np

from star_jax.evaluation.metrics.metric import FrameScorer, Metric

PEAK = 255.0
# An error-free frame has no finite PSNR; it counts as this, as does any frame with a higher PSNR.
MAX_PSNR = 100.0
# BT.601 luma between 16 and 235, as in MATLAB's rgb2ycbcr and BasicSR.
_STUDIO = np.array([65.481, 128.553, 24.966]) / 255


def luma(frame: np.ndarray) -> np.ndarray:
    """BT.601 luma in full range, rounded to 8 bits (Y in pyiqa, which computed STAR's table).

    Args:
      frame: uint8 [H, W, 3], RGB.

    Returns:
      uint8 [H, W].
    """
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def studio_luma(frame: np.ndarray) -> np.ndarray:
    """BT.601 luma between 16 and 235, not rounded; its PSNR is 1.3 dB higher.

    Args:
      frame: uint8 [H, W, 3], RGB.

    Returns:
      float64 [H, W].
    """
    return frame @ _STUDIO + 16


def psnr(frame: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels; at most 100.

    Args:
      frame: uint8 of any shape.
      truth: uint8 of the same shape.
    """
    # Exact in integers: 255^2 times the number of pixels is far below 2^63.
    error = np.subtract(frame, truth, dtype=np.int16).astype(np.int32)
    return psnr_of_error(int(np.sum(error * error, dtype=np.int64)) / error.size)


def psnr_of_error(mean_square: float, *, peak: float = PEAK) -> float:
    """Peak signal-to-noise ratio in dB for a mean squared error, at most 100. `peak` is the width of the range."""
    return min(MAX_PSNR, 10 * math.log10(peak**2 / mean_square)) if mean_square else MAX_PSNR


def psnr_studio(frame: np.ndarray, truth: np.ndarray) -> float:
    """PSNR of luma between 16 and 235, with the peak at 255; uint8 [H, W, 3] each."""
    return psnr_of_error(float(np.mean((studio_luma(frame) - studio_luma(truth)) ** 2)))


PSNR = Metric(
    "PSNR dB", 2, True, lambda *_: FrameScorer(psnr), "of RGB, peak 255; an error-free frame counts as 100"
)
PSNR_Y = Metric(
    "PSNR-Y dB",
    2,
    True,
    lambda *_: FrameScorer(lambda frame, truth: psnr(luma(frame), luma(truth))),
    "of BT.601 luma in full range, rounded to 8 bits (pyiqa)",
)
PSNR_STUDIO = Metric(
    "PSNR-Y16 dB",
    2,
    True,
    lambda *_: FrameScorer(psnr_studio),
    "of BT.601 luma between 16 and 235, not rounded (MATLAB, BasicSR)",
)
