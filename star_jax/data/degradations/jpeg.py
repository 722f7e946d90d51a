"""JPEG compression of single frames by libjpeg-turbo."""

import cv2
import numpy as np


def jpeg(frame: np.ndarray, quality: int) -> np.ndarray:
    """Compresses and decompresses a frame, with 4:2:0 chroma.

    Args:
      frame: uint8 [H, W, 3].
      quality: libjpeg's quality, 1..100.

    Returns:
      uint8 [H, W, 3].
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, int(quality)]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    assert decoded is not None
    return decoded
