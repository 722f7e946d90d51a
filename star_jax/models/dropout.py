"""Dropout, and the keys of a network's dropouts.

A dropout's key is the network's, folded with the layer's position at every level of nesting. The keys of many
layers are folded at once: folding takes a hundred operations, on one key or on a thousand.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from star_jax.ops.platform import target_platform
from star_jax.parallel.activations import split_frames

_DIGITS = 23  # a float32 between 0 and 1 has so many random bits


def draw_masks(
    keys: Key[Array, " n"] | None, shape: Sequence[int], rate: float
) -> Bool[Array, "n ..."] | None:
    """What n dropouts of the same shape [B, F, ...] keep; None without keys (inference).

    Each mask is that of `jax.random.bernoulli`, from integers. They are drawn at once, for drawing takes a hundred
    operations, too.

    Args:
      keys: one key a dropout.
      shape: [B, F, ...]; a mesh splits clips and frames.
      rate: fraction that is dropped, from 0 to 1.

    Returns:
      One mask a key; None if nothing is dropped.
    """
    if keys is None or rate == 0.0:
        return None
    bits = jax.vmap(lambda key: split_frames(jax.random.bits(key, shape, jnp.uint32)))(keys)
    kept = math.ceil(float(np.float32(1.0 - rate)) * 2**_DIGITS)  # of 2^23 equally likely numbers
    masks = (bits >> (32 - _DIGITS)) < jnp.uint32(kept)
    # Otherwise a TPU's compiler draws the bits again in every operation that reads a mask.
    return jax.lax.optimization_barrier(masks) if target_platform() == "tpu" else masks


def dropout(x: Float[Array, "*N"], rate: float, mask: Bool[Array, "*N"] | None) -> Float[Array, "*N"]:
    """Sets x to zero where the mask is false, and divides the rest by 1 - rate; without a mask it does nothing."""
    return x if mask is None else jnp.where(mask, x / (1.0 - rate), 0.0).astype(x.dtype)


def fold_keys(keys: Key[Array, "*N"], positions: Sequence[int]) -> Key[Array, "*N n"]:
    """Every key folded with every position."""
    return jnp.vectorize(jax.random.fold_in)(keys[..., None], jnp.asarray(positions, jnp.uint32))


def key_at(keys: Key[Array, "n ..."] | None, index: int) -> Key[Array, "..."] | None:
    """The keys of one position; None, for inference, stays None."""
    return None if keys is None else keys[index]
