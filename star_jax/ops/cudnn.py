"""cuDNN's flash attention for NVIDIA GPUs, with a backward pass at every length."""

from typing import Any, Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_MULTIPLE = 8  # tokens; cuDNN's backward pass takes even lengths only
_IMPLEMENTATION: Final = "cudnn"


@jax.custom_vjp
def cudnn_attention(
    q: Float[Array, "N Q H D"], k: Float[Array, "N K H D"], v: Float[Array, "N K H D"]
) -> Float[Array, "N Q H D"]:
    """Full attention, scaled by 1/sqrt(head_dim).

    Without a backward pass it takes any length. Under differentiation an odd length (77 tokens of text) is padded
    to a multiple of 8, and the kernel is told how many tokens count, so that the padding has no weight.

    Args:
      q: [batch, query_length, heads, head_dim], float16 or bfloat16, head_dim a multiple of 8 up to 128.
      k: [batch, key_length, heads, head_dim].
      v: [batch, key_length, heads, head_dim].

    Returns:
      [batch, query_length, heads, head_dim] in q's dtype.
    """
    return jax.nn.dot_product_attention(q, k, v, implementation=_IMPLEMENTATION)


def attend_padded(
    q: Float[Array, "N Q H D"], k: Float[Array, "N K H D"], v: Float[Array, "N K H D"]
) -> Float[Array, "N Q H D"]:
    """Attention with odd lengths padded: the function that JAX differentiates."""
    q_length, k_length = q.shape[1], k.shape[1]
    if q_length % 2 == 0 and k_length % 2 == 0:
        return jax.nn.dot_product_attention(q, k, v, implementation=_IMPLEMENTATION)
    lengths: dict[str, Any] = {
        "query_seq_lengths": jnp.full(len(q), q_length, jnp.int32),
        "key_value_seq_lengths": jnp.full(len(k), k_length, jnp.int32),
    }
    q, k, v = map(_pad, (q, k, v))
    out = jax.nn.dot_product_attention(q, k, v, implementation=_IMPLEMENTATION, **lengths)
    return out[:, :q_length]


def _pad(x: jax.Array) -> jax.Array:
    missing = -x.shape[1] % _MULTIPLE if x.shape[1] % 2 else 0
    return jnp.pad(x, ((0, 0), (0, missing), (0, 0), (0, 0)))


def _forward(q: jax.Array, k: jax.Array, v: jax.Array):
    return jax.vjp(attend_padded, q, k, v)


def _backward(pullback, gradient: jax.Array):
    return pullback(gradient)


cudnn_attention.defvjp(_forward, _backward)
