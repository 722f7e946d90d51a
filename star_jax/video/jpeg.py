"""Decodes JPEG pictures with simplejpeg, which reports damage, unlike OpenCV, and gives the same pixels.

If simplejpeg is not installed, OpenCV decodes them; then only libjpeg's line on stderr reports damage.
"""

import contextlib

import cv2
import numpy as np

with contextlib.suppress(ImportError):
    import simplejpeg
TELLS_OF_DAMAGE = "simplejpeg" in globals()
END = b"\xff\xd9"  # end marker, which some cameras leave out


def decode_jpeg(data: bytes) -> tuple[np.ndarray | None, bool]:
    """Decodes a JPEG without applying its orientation.

    Returns:
        RGB pixels uint8 [H, W, 3], or None if the file is cut off or cannot be decoded; and whether the data are
        damaged.
    """
    if not TELLS_OF_DAMAGE:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        return None if pixels is None else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), False
    try:
        return _decode(data), False
    except ValueError as error:
        if "Premature end" not in str(error):
            with contextlib.suppress(ValueError):
                return _decode(data, strict=False), True
            return None, True
    with contextlib.suppress(ValueError):
        return _decode(data + END), False
    return None, True


def _decode(data: bytes, *, strict: bool = True) -> np.ndarray:
    return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=strict)
