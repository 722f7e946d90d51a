"""Random weights made on the device, so that a benchmark needs no checkpoint."""

import functools
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp

Tree = dict[str, Any]


def random_params(abstract: Tree, seed: int = 0) -> Tree:
    """Fills a tree of shapes, leaf by leaf, on the device and with the sharding that each leaf names.

    Kernels and embeddings are normal with deviation 1/sqrt(fan in), scales 1, everything else 0: no layer is the
    identity, as freshly initialised ones would be, and numbers stay finite in half precision.

    Args:
      abstract: nested dicts of jax.ShapeDtypeStruct, see `VideoModel.abstract`.
      seed: of the weights.
    """

    def fill(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name, place = path[-1].key, jax.tree_util.keystr(path)
        make = _maker(name, leaf.shape, leaf.dtype, leaf.sharding)
        return make(jax.random.fold_in(jax.random.key(seed), zlib.crc32(place.encode())))

    return jax.tree_util.tree_map_with_path(fill, abstract)


@functools.cache  # one program per shape; a full-size network has about a hundred
def _maker(name: str, shape: tuple[int, ...], dtype: jnp.dtype, sharding: jax.sharding.Sharding | None):
    if name in ("kernel", "embedding"):
        deviation = 1 / math.sqrt(math.prod(shape[:-1]))

        def make(key: jax.Array) -> jax.Array:
            return (deviation * jax.random.normal(key, shape)).astype(dtype)
    else:

        def make(key: jax.Array) -> jax.Array:
            del key
            return jnp.full(shape, 1 if name == "scale" else 0, dtype)

    return jax.jit(make, out_shardings=sharding)
