"""JPEG pictures whose data are damaged: OpenCV does not tell, but simplejpeg does, and gives the same pixels.

Where simplejpeg is not installed, OpenCV decodes; then only libjpeg's own line on stderr tells of damage.
"""

import contextlib

import cv2
import numpy as np

with contextlib.suppress(ImportError):
    import simplejpeg
TELLS_OF_DAMAGE = "simplejpeg" in globals()
END = b"\xff\xd9"  # some cameras leave it out


def decode_jpeg(data: bytes) -> tuple[np.ndarray | None, bool]:
    """RGB pixels uint8 [H, W, 3], not turned upright, and whether the data are damaged; None if there are none.

    A file that is cut off gives none.
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
