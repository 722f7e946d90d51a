"""A digest of the numbers of a state, by which a damaged checkpoint is told from a good one.

Neither Orbax nor its array files notice every flipped bit: weights hardly compress, and what is not compressed
carries no checksum. The digest is taken on the devices before a save and again after a restore, so that it covers
everything in between, and it is the same however the arrays are split.
"""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def digest(tree: Any) -> str:
    """Names the numbers of a tree of arrays, bit for bit; the structure is not part of it.

    One sum after the other: each adds up over devices, and processes whose devices meet for several sums at once,
    in another order in each process, wait for each other for ever.
    """
    sums = [jax.device_get(_sum(leaf)) for leaf in jax.tree.leaves(tree)]
    return hashlib.sha256(np.asarray(sums, np.uint32).tobytes()).hexdigest()[:16]


@jax.jit
def _sum(x: jax.Array) -> jax.Array:
    """Sum of all numbers' bits modulo 2^32, each times an odd number of its own: any one changed bit changes it."""
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")).astype(jnp.uint32)
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)
