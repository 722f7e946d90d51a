"""Random weights generated on the device, so that a benchmark needs no checkpoint."""

import functools
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp

Tree = dict[str, Any]

_OFFSETS = 2**16  # number of offsets in the noise at which a leaf may begin


def random_params(abstract: Tree, seed: int = 0) -> Tree:
    """Fills a tree of shapes in one program, with the sharding of each leaf.

    Kernels and embeddings are normal with deviation 1/sqrt(fan in), scales 1, everything else 0. So no layer is the
    identity, unlike some freshly initialised layers, and numbers stay finite in half precision. All leaves are cut
    from one stretch of noise, each at its own offset: drawing thousands of them separately would take longer to
    compile than a benchmark takes to run.

    Args:
      abstract: nested dicts of jax.ShapeDtypeStruct, see `VideoModel.abstract`.
      seed: seed of the weights.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(abstract)
    described = tuple(
        (path[-1].key, zlib.crc32(jax.tree_util.keystr(path).encode()) % _OFFSETS, leaf.shape, leaf.dtype)
        for path, leaf in leaves
    )
    shardings = tuple(leaf.sharding for _, leaf in leaves)
    return jax.tree.unflatten(structure, _maker(described, shardings)(jax.random.key(seed)))


@functools.lru_cache(maxsize=32)
def _maker(described: tuple, shardings: tuple[jax.sharding.Sharding | None, ...]):
    """The program that makes leaves from (name, offset in the noise, shape, dtype)."""
    drawn = [math.prod(shape) for name, _, shape, _ in described if name in ("kernel", "embedding")]

    def fill(noise: jax.Array, name: str, place: int, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        if name not in ("kernel", "embedding"):
            return jnp.full(shape, 1 if name == "scale" else 0, dtype)
        deviation = 1 / math.sqrt(math.prod(shape[:-1]))
        return (deviation * noise[place : place + math.prod(shape)]).reshape(shape).astype(dtype)

    def make(key: jax.Array) -> list[jax.Array]:
        noise = jax.random.normal(key, (max(drawn, default=0) + _OFFSETS,))
        return [fill(noise, *leaf) for leaf in described]

    return jax.jit(make, out_shardings=list(shardings))
