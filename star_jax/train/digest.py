"""A digest of all values of a state, which tells a damaged checkpoint from a good one.

Neither Orbax nor its array files notice every flipped bit: weights hardly compress, and uncompressed data has no
checksum. The digest is computed on the devices before a save and again after a restore, so that it covers
everything in between, and it does not depend on how the arrays are sharded.
"""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def digest(tree: Any) -> str:
    """Digest of the bits of all arrays in a tree; it does not cover the tree's structure.

    The sums are computed one after the other. Each is a reduction over devices, and processes that start several
    reductions at once, each in another order, would wait for each other for ever.
    """
    sums = [jax.device_get(_sum(leaf)) for leaf in jax.tree.leaves(tree)]
    return hashlib.sha256(np.asarray(sums, np.uint32).tobytes()).hexdigest()[:16]


@jax.jit
def _sum(x: jax.Array) -> jax.Array:
    """Sum modulo 2^32 of all values' bits, each times a different odd number: any changed bit changes the sum."""
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")).astype(jnp.uint32)
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)
