"""Splash (flash) attention for TPUs, for lengths that are not multiples of the kernel's blocks."""

import math

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from star_jax.errors import InputError
from star_jax.ops.remat import ATTENTION_RESIDUALS
from star_jax.ops.splash_blocks import Blocks, blocks_of


def splash_attention(
    q: Float[Array, "N Q H D"],
    k: Float[Array, "N K H D"],
    v: Float[Array, "N K H D"],
    blocks: Blocks | None = None,
) -> Float[Array, "N Q H D"]:
    """Full attention with Pallas' splash kernel; padding tokens are masked by segment ids.

    Args:
      q: [batch, query_length, heads, head_dim], head_dim 64, 128 or 256.
      k: [batch, key_length, heads, head_dim].
      v: [batch, key_length, heads, head_dim].
      blocks: tokens per block; by default those of the table (`star_jax.ops.splash_blocks`).

    Returns:
      [batch, query_length, heads, head_dim] in q's dtype.

    Raises:
      InputError: the head size is not supported.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    if q.shape[-1] not in (64, 128, 256):
        raise InputError(
            f"attention 'splash' takes head sizes 64, 128 and 256, got {q.shape}; use 'chunked' instead"
        )
    q_length, k_length = q.shape[1], k.shape[1]
    of_queries, of_keys = blocks or blocks_of(q_length), blocks or blocks_of(k_length)
    q_block, q_block_backward = of_queries.query, of_queries.query_backward
    k_block, k_block_backward = of_keys.key, of_keys.key_backward
    # The kernel does not scale the logits and takes [heads, length, head_dim].
    q = rearrange(
        _pad_tokens(q * q.shape[-1] ** -0.5, q_block, q_block_backward), "b length n d -> b n length d"
    )
    k, v = (
        rearrange(_pad_tokens(x, k_block, k_block_backward), "b length n d -> b n length d") for x in (k, v)
    )
    mask = masks.MultiHeadMask([masks.FullMask((q.shape[2], k.shape[2]))] * q.shape[1])
    sizes = kernel.BlockSizes(
        block_q=q_block,
        block_kv=k_block,
        block_kv_compute=k_block,
        block_q_dkv=q_block_backward,
        block_kv_dkv=k_block_backward,
        block_kv_dkv_compute=k_block_backward,
        block_q_dq=q_block_backward,
        block_kv_dq=k_block_backward,
    )
    attend = kernel.make_splash_mha(
        mask,
        head_shards=1,
        q_seq_shards=1,
        block_sizes=sizes,
        residual_checkpoint_name=ATTENTION_RESIDUALS,
    )
    segments = kernel.SegmentIds(
        q=(jnp.arange(q.shape[2]) >= q_length).astype(jnp.int32),
        kv=(jnp.arange(k.shape[2]) >= k_length).astype(jnp.int32),
    )
    out = jax.vmap(attend, in_axes=(0, 0, 0, None))(q, k, v, segments)
    return rearrange(out, "b n length d -> b length n d")[:, :q_length].astype(v.dtype)


def _pad_tokens(x: jax.Array, *blocks: int) -> jax.Array:
    """Pads with zeros to a number of tokens that is a multiple of every block."""
    block = math.lcm(*blocks)
    padded = block * math.ceil(x.shape[1] / block)
    return jnp.pad(x, ((0, 0), (0, padded - x.shape[1]), (0, 0), (0, 0)))
