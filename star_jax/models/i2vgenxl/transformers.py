"""Spatial and temporal transformers of the UNet, with LIEM gates."""

from typing import Any

import jax
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from star_jax.models.attention import Attention, FeedForward, KeysValues, layer_norm
from star_jax.models.layers import GroupNorm, repeat_branches
from star_jax.models.liem import SpatialLiem, TemporalLiem
from star_jax.ops.attention import AttentionKernels
from star_jax.ops.frames_attention import attends_frames_first
from star_jax.ops.tokens import clip_to_tokens, frames_to_tokens, tokens_to_clip, tokens_to_frames
from star_jax.parallel.activations import split_frames, split_pixels


def _gate(liem: nnx.Module | None, x: jax.Array, *, here: bool) -> jax.Array:
    return liem(x) if liem is not None and here else x


class SpatialTransformerBlock(nnx.Module):
    """Self-attention within a frame, attention to the text, feed-forward.

    x = attn1(norm1(LIEM(x))) + x; x = attn2(norm2(x), text) + x; x = ff(norm3(x)) + x, with LIEM at position
    `before_attention`; see `LiemConfig` for the others.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        head_dim: int,
        context_dim: int,
        liem_position: str | None,
        kernels: AttentionKernels,
        **kwargs,
    ):
        self.norm1 = layer_norm(dim, **kwargs)
        self.attn1 = Attention(dim, heads=heads, head_dim=head_dim, implementation=kernels.spatial, **kwargs)
        self.norm2 = layer_norm(dim, **kwargs)
        self.attn2 = Attention(
            dim,
            heads=heads,
            head_dim=head_dim,
            context_dim=context_dim,
            implementation=kernels.cross,
            **kwargs,
        )
        self.norm3 = layer_norm(dim, **kwargs)
        self.ff = FeedForward(dim, **kwargs)
        self.liem1 = SpatialLiem(**kwargs) if liem_position else None
        self.liem_position = liem_position

    def __call__(self, x: Float[Array, "B F H W C"], text: KeysValues) -> Float[Array, "N F H W C"]:
        """[B, F, H, W, C] and the text's keys and values [N, L, heads, head_dim] -> [N, F, H, W, C].

        N is a multiple of B: with several texts per clip, the part that does not depend on the text runs once.
        """
        gated = _gate(self.liem1, x, here=self.liem_position == "before_attention")
        attended = tokens_to_frames(self.attn1(frames_to_tokens(self.norm1(gated))), x.shape)
        x = _gate(self.liem1, attended, here=self.liem_position == "after_attention") + x
        x = repeat_branches(x, len(text.keys))  # from here on, the branches of guidance differ
        # All frames of a clip see the same text, so they are the queries of one sequence.
        x = tokens_to_clip(self.attn2(clip_to_tokens(self.norm2(x)), text), x.shape) + x
        x = self.ff(self.norm3(x)) + x
        return _gate(self.liem1, x, here=self.liem_position == "block_output")


class TemporalTransformerBlock(nnx.Module):
    """Two self-attentions along the frames of each pixel, feed-forward; each attention has its own LIEM."""

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        head_dim: int,
        liem_position: str | None,
        kernels: AttentionKernels,
        **kwargs,
    ):
        attention: dict[str, Any] = {
            "heads": heads,
            "head_dim": head_dim,
            "implementation": kernels.temporal,
            **kwargs,
        }
        self.norm1 = layer_norm(dim, **kwargs)
        self.attn1 = Attention(dim, **attention)
        self.norm2 = layer_norm(dim, **kwargs)
        self.attn2 = Attention(dim, **attention)
        self.norm3 = layer_norm(dim, **kwargs)
        self.ff = FeedForward(dim, **kwargs)
        self.liem1 = TemporalLiem(**kwargs) if liem_position else None
        # A gate on the block's output needs only one module.
        has_second = liem_position in ("before_attention", "after_attention")
        self.liem2 = TemporalLiem(**kwargs) if has_second else None
        self.liem_position = liem_position

    def __call__(self, x: Float[Array, "*N C"]) -> Float[Array, "*N C"]:
        """[pixels, F, C] -> same, or [B, F, pixels, C] -> same without moving the frames."""
        attn1, attn2 = (
            (self.attn1, self.attn2) if x.ndim == 3 else (self.attn1.along_frames, self.attn2.along_frames)
        )
        before = self.liem_position == "before_attention"
        after = self.liem_position == "after_attention"
        x = _gate(self.liem1, attn1(self.norm1(_gate(self.liem1, x, here=before))), here=after) + x
        x = _gate(self.liem2, attn2(self.norm2(_gate(self.liem2, x, here=before))), here=after) + x
        x = self.ff(self.norm3(x)) + x
        return _gate(self.liem1, x, here=self.liem_position == "block_output")


class SpatialTransformer(nnx.Module):
    """GroupNorm per frame, linear in, one block, linear out, residual."""

    def __init__(
        self,
        channels: int,
        *,
        head_dim: int,
        context_dim: int,
        num_groups: int = 32,
        liem_position: str | None = "before_attention",
        kernels: AttentionKernels = AttentionKernels(),
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        kwargs: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.norm = GroupNorm(channels, num_groups=num_groups, epsilon=1e-6, **kwargs)
        self.proj_in = nnx.Linear(channels, channels, **kwargs)
        self.block = SpatialTransformerBlock(
            channels,
            heads=channels // head_dim,
            head_dim=head_dim,
            context_dim=context_dim,
            liem_position=liem_position,
            kernels=kernels,
            **kwargs,
        )
        self.proj_out = nnx.Linear(channels, channels, kernel_init=nnx.initializers.zeros, **kwargs)

    def project_text(self, context: Float[Array, "B L E"]) -> KeysValues:
        """Keys and values of text [B, L, context_dim]."""
        return self.block.attn2.project(context)

    def __call__(self, x: Float[Array, "B F H W C"], text: KeysValues) -> Float[Array, "N F H W C"]:
        """[B, F, H, W, C] and the result of `project_text` for N texts -> [N, F, H, W, C]."""
        hidden = self.block(self.proj_in(self.norm(x)), text)
        return self.proj_out(hidden) + repeat_branches(x, len(hidden))


class TemporalTransformer(nnx.Module):
    """GroupNorm over the whole clip, linear in, one block along frames, linear out, residual.

    `heads` defaults to channels / head_dim; the transformer after the first convolution has 8 heads of 64 on
    320 channels, so its inner width is 512.
    """

    def __init__(
        self,
        channels: int,
        *,
        head_dim: int,
        heads: int | None = None,
        num_groups: int = 32,
        liem_position: str | None = "before_attention",
        kernels: AttentionKernels = AttentionKernels(),
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        kwargs: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        heads = heads or channels // head_dim
        inner = heads * head_dim
        self.norm = GroupNorm(channels, num_groups=num_groups, epsilon=1e-6, over_frames=True, **kwargs)
        self.proj_in = nnx.Linear(channels, inner, **kwargs)
        self.block = TemporalTransformerBlock(
            inner, heads=heads, head_dim=head_dim, liem_position=liem_position, kernels=kernels, **kwargs
        )
        self.proj_out = nnx.Linear(inner, channels, kernel_init=nnx.initializers.zeros, **kwargs)
        self.implementation, self.head_dim = kernels.temporal, head_dim

    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B F H W C"]:  # [B, F, H, W, C] -> same
        b, f, h = x.shape[:3]
        tokens = rearrange(self.proj_in(self.norm(x)), "b f h w c -> b f (h w) c")
        if self.implementation == "auto" and attends_frames_first(f, self.head_dim, self.proj_in.dtype):
            tokens = self.block(tokens)
        else:
            tokens = split_pixels(rearrange(split_frames(tokens), "b f pixels c -> b pixels f c"))
            tokens = self.block(rearrange(tokens, "b pixels f c -> (b pixels) f c"))
            tokens = split_pixels(rearrange(tokens, "(b pixels) f c -> b pixels f c", b=b))
            tokens = split_frames(rearrange(tokens, "b pixels f c -> b f pixels c"))
        return rearrange(self.proj_out(tokens), "b f (h w) c -> b f h w c", h=h) + x
