"""HEIC pictures of phones, where pillow-heif is installed (`pip install star_jax[heic]`).

libheif puts the tiles of a picture together and turns it upright; of several pictures in a file it gives the
primary one first.
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
    """Pixels of a picture with more than 8 bits: uint16 over the whole range [H, W, 3], or [H, W, 4] with alpha."""
    pixels = np.asarray(pillow_heif.open_heif(file, convert_hdr_to_8bit=False))
    levels = (pixels >> (16 - bits)).astype(
        np.float64
    )  # pillow-heif moves the bits up, and leaves zeros below
    return np.round(levels * 65535 / (2**bits - 1)).astype(np.uint16)
