"""Resizing of 8-bit frames by area, bilinear and bicubic filters."""

import cv2
import numpy as np

MODES = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


def resize(frame: np.ndarray, height: int, width: int, mode: str) -> np.ndarray:
    """Resizes a frame; bilinear and bicubic have half-pixel centres and no antialiasing, as in Real-ESRGAN.

    Args:
      frame: uint8 [H, W, 3].
      height, width: pixels of the result.
      mode: `area`, `bilinear` or `bicubic`.

    Returns:
      uint8 [height, width, 3].

    Raises:
      ValueError: there is no such mode.
    """
    if mode not in MODES:
        raise ValueError(f"no resize mode {mode!r}; choose one of {', '.join(MODES)}")
    if frame.shape[:2] == (height, width):
        return frame
    return cv2.resize(frame, (width, height), interpolation=MODES[mode])
