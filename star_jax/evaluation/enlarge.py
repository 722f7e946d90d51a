"""The interpolated input, as a baseline to compare with."""

import cv2
import numpy as np

from star_jax.errors import InputError

# OpenCV's bicubic kernel has a = -0.75 and half-pixel centres, like PyTorch's.
BASELINES = {"bicubic": cv2.INTER_CUBIC, "bilinear": cv2.INTER_LINEAR, "lanczos": cv2.INTER_LANCZOS4}


def check_baseline(name: str) -> None:
    """Checks the name of a baseline.

    Raises:
      InputError: no baseline has that name.
    """
    if name not in BASELINES:
        raise InputError(f"baseline is {name!r}; choose one of {', '.join(BASELINES)}")


def enlarge(low: np.ndarray, height: int, width: int, baseline: str) -> np.ndarray:
    """Interpolates a frame of the input, uint8 [h, w, 3], to uint8 [height, width, 3]."""
    return cv2.resize(low, (width, height), interpolation=BASELINES[baseline])
