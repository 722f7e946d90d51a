"""Leaves that come from no source, each generated when it is saved.

Each leaf has its own generator, seeded with seed and path, so that no leaf depends on another.
"""

import math
import zlib

import numpy as np

from star_jax.checkpoints.trees import LazyArray

ZEROS, IDENTITY, RANDOM, RANDOM_LAYERS = "zeros", "identity", "random", "random_layers"


def fresh_leaf(path: str, shape: tuple[int, ...], dtype: np.dtype, how: str, seed: int) -> LazyArray:
    """A leaf that is initialised by `how` (ZEROS, IDENTITY, RANDOM, RANDOM_LAYERS) when it is saved.

    RANDOM: kernels are uniform in +-1/sqrt(fan in), PyTorch's default for convolutions and linear maps; embeddings
    are normal with deviation 0.02; scales are 1, everything else 0. RANDOM_LAYERS: kernels of stacked layers, each
    layer along the first axis initialised like a RANDOM kernel.
    """

    def read() -> np.ndarray:
        if how == IDENTITY:
            return np.broadcast_to(np.eye(shape[-2], shape[-1]), shape).astype(dtype)
        if how == RANDOM_LAYERS:
            bound = 1 / math.sqrt(math.prod(shape[1:-1]))
            return (_generator(path, seed).uniform(-bound, bound, shape)).astype(dtype)
        return (_draw(path, shape, seed) if how == RANDOM else np.zeros(shape)).astype(dtype)

    return LazyArray(shape, dtype, read)


def _draw(path: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = _generator(path, seed)
    kind = path.rsplit("/", 1)[-1]
    if kind == "kernel":
        bound = 1 / math.sqrt(math.prod(shape[:-1]))
        return rng.random(shape, np.float32) * (2 * bound) - bound
    if kind == "embedding":
        return rng.standard_normal(shape, np.float32) * 0.02
    return np.full(shape, 1.0 if kind == "scale" else 0.0, np.float32)


def _generator(path: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(path.encode())])
