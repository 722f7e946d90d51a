"""The diffusion transformer of CogVideoX with STAR's LIEM: full attention over the tokens of text and video.

Papers: Yang et al. 2024, "CogVideoX", arXiv 2408.06072; STAR, arXiv 2501.02976, section 4 and table 6. Attribute
names follow diffusers' `CogVideoXTransformer3DModel`; the weights of all layers are stacked along a first axis.
Every constructor passes `dtype`, `param_dtype` and `rngs` on to its layers.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from star_jax.config.cogvideox import TransformerConfig
from star_jax.models.cogvideox.lora import LoraLinear
from star_jax.models.cogvideox.positions import is_own_grid, rotary_tables, sincos_table
from star_jax.models.layers import TimestepEmbedding
from star_jax.models.liem import SpatialLiem, TemporalLiem
from star_jax.models.stack import scan_layers, stack_layers
from star_jax.ops.attention import dot_product_attention

# Epsilon of the norms before attention, before feed-forward and after the blocks; of the norms of q, k and output.
BLOCK_EPSILON, FINE_EPSILON = 1e-5, 1e-6


class Tokens(NamedTuple):
    """Tokens of both modalities; in attention the text comes first.

    Attributes:
      text: [B, text_length, width].
      video: [B, frames, rows, columns, width].
    """

    text: jax.Array
    video: jax.Array

    def join(self) -> jax.Array:
        """[B, text_length + frames x rows x columns, width]."""
        return jnp.concatenate([self.text, rearrange(self.video, "b f h w c -> b (f h w) c")], axis=1)

    def split(self, joined: jax.Array) -> "Tokens":
        """The inverse of `join`, for tokens of this shape."""
        length, (_, f, h, w, _) = self.text.shape[1], self.video.shape
        return Tokens(
            joined[:, :length], rearrange(joined[:, length:], "b (f h w) c -> b f h w c", f=f, h=h, w=w)
        )


def _layer_norm(dim: int, epsilon: float, **kwargs) -> nnx.LayerNorm:
    return nnx.LayerNorm(dim, epsilon=epsilon, use_fast_variance=False, **kwargs)


def _modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """x (1 + scale) + shift, with one shift and scale [B, C] for all tokens [B, ..., C] of a sample."""
    return x * (1 + _per_token(scale, x)) + _per_token(shift, x)


def _per_token(row: jax.Array, x: jax.Array) -> jax.Array:
    return row.reshape(len(row), *(1,) * (x.ndim - 2), row.shape[-1])


class PatchEmbed(nnx.Module):
    """Turns latents and text into tokens and, with `sincos`, adds positions (diffusers: `patch_embed`)."""

    def __init__(self, config: TransformerConfig, **kwargs):
        size = config.patch_size
        self.proj = nnx.Conv(
            config.in_channels, config.width, (size, size), strides=size, padding="VALID", **kwargs
        )
        self.text_proj = nnx.Linear(config.text_embed_dim, config.width, **kwargs)
        self.config = config
        if config.positions == "sincos":
            table = jnp.asarray(sincos_table(config, config.grid), kwargs["param_dtype"])
            self.pos_embedding = nnx.Param(jnp.pad(table, ((config.text_length, 0), (0, 0))))

    def __call__(self, latents: jax.Array, context: jax.Array) -> Tokens:
        """[B, F, h, w, in_channels] and [B, text_length, text_embed_dim] to tokens."""
        video = self.proj(latents)
        if self.config.positions == "sincos":
            _, f, h, w, _ = video.shape
            video = video + rearrange(self._positions((f, h, w)), "(f h w) c -> f h w c", f=f, h=h)
        return Tokens(self.text_proj(context), video)

    def _positions(self, size: tuple[int, int, int]) -> jax.Array:
        """Rows of the stored table, or newly computed rows for another grid."""
        if not is_own_grid(self.config, size):
            return jnp.asarray(sincos_table(self.config, size), self.proj.dtype)
        first, count = self.config.text_length, size[0] * size[1] * size[2]
        return self.pos_embedding[first : first + count].astype(self.proj.dtype)


class LayerNormZero(nnx.Module):
    """Layer norm and its modulation by the timestep, for video and text (diffusers: `CogVideoXLayerNormZero`)."""

    def __init__(self, config: TransformerConfig, **kwargs):
        self.linear = nnx.Linear(config.time_embed_dim, 6 * config.width, **kwargs)
        self.norm = _layer_norm(config.width, BLOCK_EPSILON, **kwargs)

    def __call__(self, tokens: Tokens, temb: jax.Array) -> tuple[Tokens, Tokens]:
        """The modulated tokens, and the gates for the output of the branch, [B, width] each.

        `temb` is [B, time_embed_dim].
        """
        rows = jnp.split(self.linear(jax.nn.silu(temb)), 6, axis=-1)
        shift, scale, gate, text_shift, text_scale, text_gate = rows
        video = _modulate(self.norm(tokens.video), shift, scale)
        return Tokens(_modulate(self.norm(tokens.text), text_shift, text_scale), video), Tokens(
            text_gate, gate
        )


class Attention(nnx.Module):
    """Full attention over all tokens, with queries and keys normed per head and rotated by their positions."""

    def __init__(self, config: TransformerConfig, implementation: str, **kwargs):
        width, rank = config.width, config.lora_rank
        self.to_q = LoraLinear(width, width, rank=rank, **kwargs)
        self.to_k = LoraLinear(width, width, rank=rank, **kwargs)
        self.to_v = LoraLinear(width, width, rank=rank, **kwargs)
        self.to_out = LoraLinear(width, width, rank=rank, **kwargs)
        self.norm_q = _layer_norm(config.attention_head_dim, FINE_EPSILON, **kwargs)
        self.norm_k = _layer_norm(config.attention_head_dim, FINE_EPSILON, **kwargs)
        self.heads, self.implementation = config.num_attention_heads, implementation

    def __call__(self, x: jax.Array, rotary: tuple[jax.Array, jax.Array] | None) -> jax.Array:
        """[B, tokens, width] -> same; `rotary` holds cosines and sines of the video's tokens, which come last."""
        q, k, v = (
            rearrange(project(x), "b n (heads c) -> b n heads c", heads=self.heads)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        q, k = self.norm_q(q), self.norm_k(k)
        if rotary is not None:
            q, k = (turn(x, *rotary) for x in (q, k))
        out = dot_product_attention(q, k, v, implementation=self.implementation, split_queries=True)
        return self.to_out(rearrange(out, "b n heads c -> b n (heads c)"))


def turn(x: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
    """Rotates each pair of adjacent channels by its angle: (a, b) -> (a cos - b sin, b cos + a sin).

    Args:
      x: [B, tokens, heads, channels]; only the last len(cosines) tokens are rotated.
      cosines, sines: [video tokens, channels], see `rotary_tables`.
    """
    rest = x.shape[1] - len(cosines)
    cosines = jnp.pad(cosines, ((rest, 0), (0, 0)), constant_values=1)[:, None]
    sines = jnp.pad(sines, ((rest, 0), (0, 0)))[:, None]
    a, b = rearrange(x.astype(jnp.float32), "... (c two) -> two ... c", two=2)
    across = rearrange(jnp.stack([-b, a]), "two ... c -> ... (c two)")
    return (x * cosines + across * sines).astype(x.dtype)


class FeedForward(nnx.Module):
    """Linear, GELU by tanh, linear; four times as wide inside."""

    def __init__(self, width: int, **kwargs):
        self.proj_in = nnx.Linear(width, 4 * width, **kwargs)
        self.proj_out = nnx.Linear(4 * width, width, **kwargs)

    def __call__(self, x: Float[Array, "N L C"]) -> Float[Array, "N L C"]:  # [..., width] -> same
        return self.proj_out(jax.nn.gelu(self.proj_in(x), approximate=True))


class Block(nnx.Module):
    """One layer: modulated norm, LIEM on the video, attention; modulated norm, feed-forward."""

    def __init__(self, config: TransformerConfig, implementation: str, **kwargs):
        self.norm1 = LayerNormZero(config, **kwargs)
        self.spatial_liem = SpatialLiem(**kwargs) if config.liem.spatial else None
        self.temporal_liem = TemporalLiem(**kwargs) if config.liem.temporal else None
        self.attn1 = Attention(config, implementation, **kwargs)
        self.norm2 = LayerNormZero(config, **kwargs)
        self.ff = FeedForward(config.width, **kwargs)

    def __call__(self, tokens: Tokens, temb: jax.Array, rotary: tuple[jax.Array, jax.Array] | None) -> Tokens:
        normed, gates = self.norm1(tokens, temb)
        tokens = _add(tokens, gates, normed.split(self.attn1(self._gate(normed).join(), rotary)))
        normed, gates = self.norm2(tokens, temb)
        return _add(tokens, gates, normed.split(self.ff(normed.join())))

    def _gate(self, tokens: Tokens) -> Tokens:
        """Applies LIEM, spatial then temporal, to the video's attention input, not to the residual stream."""
        video = tokens.video
        for liem in (self.spatial_liem, self.temporal_liem):
            video = video if liem is None else liem(video)
        return tokens._replace(video=video)


def _add(tokens: Tokens, gates: Tokens, update: Tokens) -> Tokens:
    return Tokens(*(x + _per_token(gate, x) * y for x, gate, y in zip(tokens, gates, update, strict=True)))


class OutputNorm(nnx.Module):
    """Layer norm modulated by the timestep, shift first (diffusers: `norm_out`)."""

    def __init__(self, config: TransformerConfig, **kwargs):
        self.linear = nnx.Linear(config.time_embed_dim, 2 * config.width, **kwargs)
        self.norm = _layer_norm(config.width, FINE_EPSILON, **kwargs)

    def __call__(self, x: jax.Array, temb: jax.Array) -> jax.Array:
        return _modulate(self.norm(x), *jnp.split(self.linear(jax.nn.silu(temb)), 2, axis=-1))


class CogVideoXTransformer(nnx.Module):
    """Predicts the velocity of noisy latents from them, the low-resolution latents, the timestep and the text."""

    def __init__(
        self,
        config: TransformerConfig,
        *,
        attention: str = "auto",
        remat: str = "none",
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        kwargs: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        width, patch = config.width, config.patch_size
        self.patch_embed = PatchEmbed(config, **kwargs)
        self.time_embedding = TimestepEmbedding(width, config.time_embed_dim, **kwargs)
        self.transformer_blocks = stack_layers(
            lambda rngs: Block(config, attention, dtype=dtype, param_dtype=param_dtype, rngs=rngs),
            config.num_layers,
            rngs,
        )
        self.norm_final = _layer_norm(width, BLOCK_EPSILON, **kwargs)
        self.norm_out = OutputNorm(config, **kwargs)
        self.proj_out = nnx.Linear(width, config.out_channels * patch**2, **kwargs)
        self.config, self.remat = config, remat

    def __call__(
        self, latents: Float[Array, "B F H W C"], timesteps: Int[Array, " B"], context: Float[Array, "B L E"]
    ) -> Float[Array, "B F H W D"]:
        """Predicts the velocity.

        Args:
          latents: [B, F, h, w, in_channels]: the noisy latents, then the low-resolution latents along the channels;
            h and w multiples of `patch_size`.
          timesteps: int32 [B], 0..999.
          context: [B, text_length, text_embed_dim].

        Returns:
          [B, F, h, w, out_channels].

        Raises:
          InputError: a grid that `other_grids` does not allow.
        """
        temb = self.time_embedding(timesteps)
        tokens = self.patch_embed(latents, context)
        rotary = None
        if self.config.positions == "rotary":
            frames, height, width = tokens.video.shape[1:4]
            rotary = rotary_tables(self.config, (frames, height, width))
        apply = partial(_apply_block, temb=temb, rotary=rotary)
        tokens = scan_layers(self.transformer_blocks, apply, tokens, remat=self.remat)
        video = self.proj_out(self.norm_out(self.norm_final(tokens.video), temb))
        size = self.config.patch_size
        return rearrange(video, "b f h w (c p q) -> b f (h p) (w q) c", p=size, q=size)


def _apply_block(block: Block, tokens: Tokens, *, temb: jax.Array, rotary) -> Tokens:
    return block(tokens, temb, rotary)
