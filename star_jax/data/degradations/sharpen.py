"""USM sharpening of ground truth, as Real-ESRGAN and the released STAR scripts apply it."""

import cv2
import numpy as np


def unsharp_mask(
    frame: np.ndarray, weight: float = 0.5, radius: int = 50, threshold: float = 10
) -> np.ndarray:
    """Adds `weight` times the difference from a blurred copy where that difference is above a threshold.

    Args:
      frame: uint8 [H, W, 3].
      weight: strength.
      radius: size of the Gaussian in pixels (its sigma is 0.3 ((size - 1) / 2 - 1) + 0.8).
      threshold: levels (0..255); smaller differences (noise and smooth shading) stay as they are.

    Returns:
      uint8 [H, W, 3].
    """
    size = radius + 1 - radius % 2
    image = frame.astype(np.float32)
    residual = image - cv2.GaussianBlur(image, (size, size), 0)
    mask = (np.abs(residual) > threshold).astype(np.float32)
    mask = cv2.GaussianBlur(mask, (size, size), 0)
    sharp = np.clip(image + weight * residual, 0, 255)
    return np.rint(image + mask * (sharp - image)).astype(np.uint8)
