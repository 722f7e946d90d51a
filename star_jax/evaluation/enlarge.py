"""The interpolated input, as a result to compare with."""

import cv2
import numpy as np

from star_jax.errors import InputError

# OpenCV's bicubic kernel has a = -0.75 and pixel centres at the half, like PyTorch's.
BASELINES = {"bicubic": cv2.INTER_CUBIC, "bilinear": cv2.INTER_LINEAR, "lanczos": cv2.INTER_LANCZOS4}


def check_baseline(name: str) -> None:
    """Refuses an unknown way to enlarge.

    Raises:
      InputError: no baseline has that name.
    """
    if name not in BASELINES:
        raise InputError(f"no baseline {name!r}; choose one of {', '.join(BASELINES)}")


def enlarge(low: np.ndarray, height: int, width: int, baseline: str) -> np.ndarray:
    """Interpolates a frame of the input, uint8 [h, w, 3], to uint8 [height, width, 3]."""
    return cv2.resize(low, (width, height), interpolation=BASELINES[baseline])
