"""Attention and feed-forward layers of the transformers."""

import jax
import jax.numpy as jnp
from flax import nnx

from star_jax.ops.attention import dot_product_attention


class Attention(nnx.Module):
    """Multi-head attention; queries, keys and values without bias (original: `CrossAttention`)."""

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        head_dim: int,
        context_dim: int | None = None,
        implementation: str = "auto",
        dtype: jnp.dtype,
        param_dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        kwargs = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        inner, context_dim = heads * head_dim, context_dim or dim
        self.to_q = nnx.Linear(dim, inner, use_bias=False, **kwargs)
        self.to_k = nnx.Linear(context_dim, inner, use_bias=False, **kwargs)
        self.to_v = nnx.Linear(context_dim, inner, use_bias=False, **kwargs)
        self.to_out = nnx.Linear(inner, dim, **kwargs)
        self.heads, self.implementation = heads, implementation

    def __call__(self, x: jax.Array, context: jax.Array | None = None) -> jax.Array:
        """Attends from x to the context, or to x itself.

        Args:
          x: [batch, length, dim].
          context: [batch, context_length, context_dim].

        Returns:
          [batch, length, dim].
        """
        of_text, context = context is not None, x if context is None else context
        q, k, v = (
            project(tokens).reshape(*tokens.shape[:2], self.heads, -1)
            for project, tokens in ((self.to_q, x), (self.to_k, context), (self.to_v, context))
        )
        out = dot_product_attention(q, k, v, implementation=self.implementation, split_queries=of_text)
        return self.to_out(out.reshape(*x.shape[:2], -1))


class FeedForward(nnx.Module):
    """GEGLU feed-forward, 4x wide; exact GELU, the gate is the second half."""

    def __init__(self, dim: int, **kwargs):
        self.proj_in = nnx.Linear(dim, 8 * dim, **kwargs)
        self.proj_out = nnx.Linear(4 * dim, dim, **kwargs)

    def __call__(self, x: jax.Array) -> jax.Array:  # [..., dim] -> same
        hidden, gate = jnp.split(self.proj_in(x), 2, axis=-1)
        return self.proj_out(hidden * jax.nn.gelu(gate, approximate=False))


def layer_norm(dim: int, **kwargs) -> nnx.LayerNorm:
    """Layer normalisation as PyTorch computes it: epsilon 1e-5, two-pass variance."""
    return nnx.LayerNorm(dim, epsilon=1e-5, use_fast_variance=False, **kwargs)
