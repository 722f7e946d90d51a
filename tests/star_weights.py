"""Seeded weights of the golden networks, by key and shape, and their way into NNX trees."""

import zlib

import jax
import numpy as np


def golden_weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weight that the golden numbers were computed with; float32, PyTorch layout."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(("star-dev/" + key).encode())))
    x = rng.standard_normal(shape).astype(np.float32)
    if len(shape) >= 2:
        return x / np.sqrt(np.float32(np.prod(shape[1:])))
    if key.endswith(".weight"):
        return 1 + np.float32(0.1) * x
    return np.float32(0.05) * x
