"""CLIP's text tower, whose penultimate output conditions STAR on prompts.

Attribute names follow transformers' `CLIPTextModel`; the released sizes are OpenCLIP's ViT-H/14. Original:
STAR's `FrozenOpenCLIPEmbedder` with `layer="penultimate"`; Radford et al. 2021, arXiv 2103.00020. Every
constructor passes `dtype`, `param_dtype` and `rngs` on to its layers.
"""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from star_jax.config import TextEncoderConfig
from star_jax.models.attention import layer_norm
from star_jax.models.whole_weights import gathered


class CLIPTextEmbeddings(nnx.Module):
    """Token plus learned position embeddings."""

    def __init__(self, vocab_size: int, max_position_embeddings: int, width: int, **kwargs):
        self.token_embedding = nnx.Embed(vocab_size, width, **kwargs)
        self.position_embedding = nnx.Embed(max_position_embeddings, width, **kwargs)

    def __call__(self, input_ids: Int[Array, "N L"]) -> Float[Array, "N L C"]:  # [B, L] -> [B, L, width]
        return self.token_embedding(input_ids) + self.position_embedding(jnp.arange(input_ids.shape[1]))


class CLIPAttention(nnx.Module):
    """Causal multi-head self-attention."""

    def __init__(self, width: int, *, num_heads: int, **kwargs):
        self.q_proj = nnx.Linear(width, width, **kwargs)
        self.k_proj = nnx.Linear(width, width, **kwargs)
        self.v_proj = nnx.Linear(width, width, **kwargs)
        self.out_proj = nnx.Linear(width, width, **kwargs)
        self.num_heads = num_heads

    def __call__(self, x: Float[Array, "N L C"]) -> Float[Array, "N L C"]:  # [B, L, width] -> same
        q, k, v = (
            rearrange(project(x), "b l (heads dim) -> b l heads dim", heads=self.num_heads)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        # The only masked attention of the system; with 77 tokens it needs no choice of kernels.
        out = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(rearrange(out, "b l heads dim -> b l (heads dim)"))


class CLIPMLP(nnx.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, width: int, *, intermediate_size: int, **kwargs):
        self.fc1 = nnx.Linear(width, intermediate_size, **kwargs)
        self.fc2 = nnx.Linear(intermediate_size, width, **kwargs)

    def __call__(self, x: Float[Array, "N L C"]) -> Float[Array, "N L C"]:  # [B, L, width] -> same
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class CLIPEncoderLayer(nnx.Module):
    """One pre-norm transformer layer."""

    def __init__(self, width: int, *, num_heads: int, intermediate_size: int, **kwargs):
        self.layer_norm1 = layer_norm(width, **kwargs)
        self.self_attn = CLIPAttention(width, num_heads=num_heads, **kwargs)
        self.layer_norm2 = layer_norm(width, **kwargs)
        self.mlp = CLIPMLP(width, intermediate_size=intermediate_size, **kwargs)

    def __call__(self, x: Float[Array, "N L C"]) -> Float[Array, "N L C"]:  # [B, L, width] -> same
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class CLIPEncoder(nnx.Module):
    """The stack of layers. The last layer is not run; it only holds parameters for conversion."""

    def __init__(self, width: int, *, num_layers: int, **kwargs):
        self.layers = nnx.List([CLIPEncoderLayer(width, **kwargs) for _ in range(num_layers)])

    def __call__(self, x: Float[Array, "N L C"]) -> Float[Array, "N L C"]:  # [B, L, width] -> same
        for layer in self.layers[:-1]:
            x = gathered(layer)(x)
        return x


class CLIPTextEncoder(nnx.Module):
    """Text tower: hidden state after all but the last layer, then the final norm."""

    def __init__(
        self,
        vocab_size: int,
        max_position_embeddings: int,
        width: int,
        *,
        num_layers: int,
        num_heads: int,
        intermediate_size: int,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        kwargs: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.embeddings = CLIPTextEmbeddings(vocab_size, max_position_embeddings, width, **kwargs)
        self.encoder = CLIPEncoder(
            width, num_layers=num_layers, num_heads=num_heads, intermediate_size=intermediate_size, **kwargs
        )
        self.final_layer_norm = layer_norm(width, **kwargs)

    @classmethod
    def from_config(
        cls,
        config: TextEncoderConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> "CLIPTextEncoder":
        """Builds the text tower of a preset."""
        return cls(
            config.vocab_size,
            config.max_position_embeddings,
            config.hidden_size,
            num_layers=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(self, input_ids: Int[Array, "N L"]) -> Float[Array, "N L C"]:
        """Embeds prompts.

        Args:
          input_ids: [B, L] int32 from `star_jax.models.clip.tokenizer.tokenize`; L at most 77.

        Returns:
          [B, L, hidden_size]; padding is included, because only later tokens are masked.
        """
        return self.final_layer_norm(self.encoder(self.embeddings(input_ids)))
