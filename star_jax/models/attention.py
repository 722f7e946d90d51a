"""Attention and feed-forward layers of the transformers."""

from typing import Any, NamedTuple

import jax
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from star_jax.ops.attention import dot_product_attention
from star_jax.ops.frames_attention import frames_attention
from star_jax.ops.geglu import geglu


class KeysValues(NamedTuple):
    """Keys and values of an attention layer.

    Attributes:
      keys, values: [batch, length, heads, head_dim].
    """

    keys: jax.Array
    values: jax.Array


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
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        kwargs: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        inner, context_dim = heads * head_dim, context_dim or dim
        self.to_q = nnx.Linear(dim, inner, use_bias=False, **kwargs)
        self.to_k = nnx.Linear(context_dim, inner, use_bias=False, **kwargs)
        self.to_v = nnx.Linear(context_dim, inner, use_bias=False, **kwargs)
        self.to_out = nnx.Linear(inner, dim, **kwargs)
        self.heads, self.implementation = heads, implementation

    def project(self, context: Float[Array, "N L E"]) -> KeysValues:
        """Keys and values of tokens [batch, length, context_dim]."""
        return KeysValues(self._heads(self.to_k(context)), self._heads(self.to_v(context)))

    def __call__(self, x: Float[Array, "N Q C"], text: KeysValues | None = None) -> Float[Array, "N Q C"]:
        """Attends from x to the text, or to x itself.

        Args:
          x: [batch, length, dim].
          text: keys and values from `project`; None for self-attention.

        Returns:
          [batch, length, dim].
        """
        keys, values = self.project(x) if text is None else text
        out = dot_product_attention(
            self._heads(self.to_q(x)),
            keys,
            values,
            implementation=self.implementation,
            split_queries=text is not None,
        )
        return self.to_out(rearrange(out, "... heads dim -> ... (heads dim)"))

    def along_frames(self, x: jax.Array) -> jax.Array:
        """Attends along the frames of each pixel without moving them: [B, F, pixels, dim] -> same."""
        q, k, v = (self._heads(projection(x)) for projection in (self.to_q, self.to_k, self.to_v))
        return self.to_out(rearrange(frames_attention(q, k, v), "... heads dim -> ... (heads dim)"))

    def _heads(self, x: jax.Array) -> jax.Array:
        return rearrange(x, "... (heads dim) -> ... heads dim", heads=self.heads)


class FeedForward(nnx.Module):
    """GEGLU feed-forward, 4x wide; exact GELU, the gate is the second half."""

    def __init__(self, dim: int, **kwargs):
        self.proj_in = nnx.Linear(dim, 8 * dim, **kwargs)
        self.proj_out = nnx.Linear(4 * dim, dim, **kwargs)

    def __call__(self, x: Float[Array, "*N C"]) -> Float[Array, "*N C"]:  # [..., dim] -> same
        return self.proj_out(geglu(self.proj_in(x)))


def layer_norm(dim: int, **kwargs) -> nnx.LayerNorm:
    """Layer normalisation as PyTorch computes it: epsilon 1e-5, two-pass variance."""
    return nnx.LayerNorm(dim, epsilon=1e-5, use_fast_variance=False, **kwargs)
