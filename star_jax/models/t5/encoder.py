"""T5's encoder (v1.1), which embeds prompts for CogVideoX.

Raffel et al. 2020, arXiv 1910.10683; v1.1 has gated GELUs. Attribute names follow transformers'
`T5EncoderModel`, with the layers' weights stacked. Every constructor passes `dtype`, `param_dtype` and `rngs` on.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from star_jax.config.cogvideox import T5Config
from star_jax.models.stack import scan_layers, stack_layers

_EPSILON = 1e-6


def relative_buckets(length: int, num_buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of each key's position relative to each query, int32 [length, length].

    Half of the buckets are for keys after the query. In each half, half of the buckets are single distances; the
    others grow logarithmically up to `max_distance`, and the last one also holds all larger distances.
    """
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    half, later = num_buckets // 2, distance > 0
    distance = np.abs(distance)
    exact = half // 2
    # In float32 as in the original, because a few distances lie on the border of two buckets.
    share = np.log(np.maximum(distance, 1).astype(np.float32) / exact) / math.log(max_distance / exact)
    far = np.minimum(exact + (share * (half - exact)).astype(np.int32), half - 1)
    return (half * later + np.where(distance < exact, distance, far)).astype(np.int32)


class RMSNorm(nnx.Module):
    """x / sqrt(mean x^2) times a weight; in float32."""

    def __init__(self, dim: int, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs):
        del rngs
        self.scale = nnx.Param(jnp.ones((dim,), param_dtype))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "N L C"]) -> Float[Array, "N L C"]:
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + _EPSILON)
        return (x * self.scale[...].astype(jnp.float32)).astype(self.dtype)


class SelfAttention(nnx.Module):
    """Attention with a bias by relative position and without scaling by the head size."""

    def __init__(self, config: T5Config, **kwargs):
        inner = config.num_attention_heads * config.head_dim
        self.q = nnx.Linear(config.hidden_size, inner, use_bias=False, **kwargs)
        self.k = nnx.Linear(config.hidden_size, inner, use_bias=False, **kwargs)
        self.v = nnx.Linear(config.hidden_size, inner, use_bias=False, **kwargs)
        self.o = nnx.Linear(inner, config.hidden_size, use_bias=False, **kwargs)
        self.heads = config.num_attention_heads

    def __call__(self, x: Float[Array, "N L C"], bias: jax.Array) -> Float[Array, "N L C"]:
        """[B, L, hidden_size] -> same; `bias` is [heads, L, L]."""
        q, k, v = (
            rearrange(project(x), "b n (heads c) -> b n heads c", heads=self.heads)
            for project in (self.q, self.k, self.v)
        )
        out = jax.nn.dot_product_attention(q, k, v, bias=bias[None], scale=1.0)
        return self.o(rearrange(out, "b n heads c -> b n (heads c)"))


class GatedFeedForward(nnx.Module):
    """gelu(x W0) * (x W1), then linear, with the tanh approximation of GELU."""

    def __init__(self, config: T5Config, **kwargs):
        self.wi_0 = nnx.Linear(config.hidden_size, config.intermediate_size, use_bias=False, **kwargs)
        self.wi_1 = nnx.Linear(config.hidden_size, config.intermediate_size, use_bias=False, **kwargs)
        self.wo = nnx.Linear(config.intermediate_size, config.hidden_size, use_bias=False, **kwargs)

    def __call__(self, x: Float[Array, "N L C"]) -> Float[Array, "N L C"]:
        return self.wo(jax.nn.gelu(self.wi_0(x), approximate=True) * self.wi_1(x))


class Block(nnx.Module):
    """One pre-norm layer."""

    def __init__(self, config: T5Config, **kwargs):
        self.attention_norm = RMSNorm(config.hidden_size, **kwargs)
        self.attention = SelfAttention(config, **kwargs)
        self.feed_forward_norm = RMSNorm(config.hidden_size, **kwargs)
        self.feed_forward = GatedFeedForward(config, **kwargs)

    def __call__(self, x: Float[Array, "N L C"], bias: jax.Array) -> Float[Array, "N L C"]:
        x = x + self.attention(self.attention_norm(x), bias)
        return x + self.feed_forward(self.feed_forward_norm(x))


class T5Encoder(nnx.Module):
    """Embeds token IDs."""

    def __init__(
        self,
        config: T5Config,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        kwargs: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.shared = nnx.Embed(config.vocab_size, config.hidden_size, **kwargs)
        self.relative_attention_bias = nnx.Embed(config.num_buckets, config.num_attention_heads, **kwargs)
        self.block = stack_layers(
            lambda rngs: Block(config, dtype=dtype, param_dtype=param_dtype, rngs=rngs),
            config.num_hidden_layers,
            rngs,
        )
        self.final_layer_norm = RMSNorm(config.hidden_size, **kwargs)
        self.config = config

    def __call__(self, input_ids: Int[Array, "N L"]) -> Float[Array, "N L C"]:
        """Embeds prompts.

        Args:
          input_ids: int32 [B, L] from `star_jax.models.t5.tokenizer.tokenize`.

        Returns:
          [B, L, hidden_size]. As in the released system, padding is not masked.
        """
        buckets = relative_buckets(input_ids.shape[1], self.config.num_buckets, self.config.max_distance)
        bias = rearrange(self.relative_attention_bias(jnp.asarray(buckets)), "q k heads -> heads q k")
        x = scan_layers(self.block, partial(_apply_block, bias=bias), self.shared(input_ids))
        return self.final_layer_norm(x)


def _apply_block(block: Block, x: jax.Array, *, bias: jax.Array) -> jax.Array:
    return block(x, bias)
