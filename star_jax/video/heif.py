"""HEIC pictures, as phones take them, if pillow-heif is installed (`pip install star_jax[heic]`).

libheif assembles the tiles of a picture and turns it upright; if a file has several pictures, the primary one comes
first.
"""

import contextlib
from pathlib import Path

import numpy as np

SUFFIXES = {".heic", ".heif"}
IS_READ = False

with contextlib.suppress(ImportError):
    import pillow_heif

    pillow_heif.register_heif_opener()
    IS_READ = True


def read_deep(file: Path, bits: int) -> np.ndarray:
    """Reads a picture with more than 8 bits: uint16 with the full range, [H, W, 3], or [H, W, 4] with alpha."""
    pixels = np.asarray(pillow_heif.open_heif(file, convert_hdr_to_8bit=False))
    levels = (pixels >> (16 - bits)).astype(np.float64)  # pillow-heif shifts the bits to the top
    return np.round(levels * 65535 / (2**bits - 1)).astype(np.uint16)
