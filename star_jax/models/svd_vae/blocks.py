"""Building blocks of the video autoencoder: residual blocks per frame and along frames, their blend, and attention.

Activations are [B, F, H, W, C]. Attribute names follow diffusers' `ResnetBlock2D`, `TemporalResnetBlock`,
`SpatioTemporalResBlock`, `AlphaBlender`, `Attention`, `Downsample2D` and `Upsample2D`, so that a checkpoint maps
onto the tree name by name. Every constructor passes `dtype`, `param_dtype` and `rngs` on to its layers.
"""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from star_jax.models.layers import Conv2d, GroupNorm
from star_jax.models.resnet import TemporalConv
from star_jax.ops.attention import dot_product_attention
from star_jax.ops.plain_convolution import flax_convolution

SPATIAL_EPSILON = 1e-6
TEMPORAL_EPSILON = 1e-5  # in the temporal blocks only


class ResnetBlock2D(nnx.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))) on each frame, with a 1x1 shortcut if the width changes."""

    def __init__(self, in_channels: int, out_channels: int, *, num_groups: int, **kwargs):
        norm_kwargs: dict[str, Any] = {"num_groups": num_groups, "epsilon": SPATIAL_EPSILON, **kwargs}
        self.norm1 = GroupNorm(in_channels, **norm_kwargs)
        self.conv1 = Conv2d(in_channels, out_channels, 3, **kwargs)
        self.norm2 = GroupNorm(out_channels, **norm_kwargs)
        self.conv2 = Conv2d(out_channels, out_channels, 3, **kwargs)
        self.conv_shortcut = (
            Conv2d(in_channels, out_channels, 1, **kwargs) if in_channels != out_channels else None
        )

    def __call__(
        self, x: Float[Array, "B F H W C"]
    ) -> Float[Array, "B F H W D"]:  # [B, F, H, W, in_channels] -> [B, F, H, W, out_channels]
        hidden = self.conv1(self.norm1(x, silu=True))
        hidden = self.conv2(self.norm2(hidden, silu=True))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + hidden


class TemporalResnetBlock(nnx.Module):
    """A residual block along frames: (3, 1, 1) convolutions, and statistics over all frames of the group."""

    def __init__(self, channels: int, *, num_groups: int, **kwargs):
        norm_kwargs: dict[str, Any] = {
            "num_groups": num_groups,
            "epsilon": TEMPORAL_EPSILON,
            "over_frames": True,
            **kwargs,
        }
        self.norm1 = GroupNorm(channels, **norm_kwargs)
        self.conv1 = TemporalConv(channels, columns=True, **kwargs)
        self.norm2 = GroupNorm(channels, **norm_kwargs)
        self.conv2 = TemporalConv(channels, columns=True, **kwargs)

    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B F H W C"]:  # [B, F, H, W, C] -> same
        hidden = self.conv1(self.norm1(x, silu=True))
        return x + self.conv2(self.norm2(hidden, silu=True))


class AlphaBlender(nnx.Module):
    """Learned blend of two tensors; sigmoid(mix_factor) is the share of the temporal one, 1/2 when untrained."""

    def __init__(self, *, param_dtype: DTypeLike):
        self.mix_factor = nnx.Param(jnp.zeros((1,), param_dtype))

    def __call__(
        self, spatial: Float[Array, "B F H W C"], temporal: Float[Array, "B F H W C"]
    ) -> Float[Array, "B F H W C"]:
        # This is diffusers' strategy `learned` with `switch_spatial_to_temporal_mix`, which swaps the shares.
        share = jax.nn.sigmoid(self.mix_factor[...].astype(jnp.float32)).astype(spatial.dtype)
        return (1 - share) * spatial + share * temporal


class SpatioTemporalResBlock(nnx.Module):
    """A residual block on each frame, then one along the frames, and a blend of both outputs."""

    def __init__(self, in_channels: int, out_channels: int, *, num_groups: int, **kwargs):
        self.spatial_res_block = ResnetBlock2D(in_channels, out_channels, num_groups=num_groups, **kwargs)
        self.temporal_res_block = TemporalResnetBlock(out_channels, num_groups=num_groups, **kwargs)
        self.time_mixer = AlphaBlender(param_dtype=kwargs["param_dtype"])

    def __call__(
        self, x: Float[Array, "B F H W C"]
    ) -> Float[Array, "B F H W D"]:  # [B, F, H, W, in_channels] -> [B, F, H, W, out_channels]
        spatial = self.spatial_res_block(x)
        return self.time_mixer(spatial, self.temporal_res_block(spatial))


class Attention(nnx.Module):
    """Self-attention over the pixels of each frame, one head as wide as the channels, with its residual."""

    def __init__(self, channels: int, *, num_groups: int, implementation: str = "auto", **kwargs):
        self.group_norm = GroupNorm(channels, num_groups=num_groups, epsilon=SPATIAL_EPSILON, **kwargs)
        self.to_q = nnx.Linear(channels, channels, **kwargs)
        self.to_k = nnx.Linear(channels, channels, **kwargs)
        self.to_v = nnx.Linear(channels, channels, **kwargs)
        self.to_out = nnx.List([nnx.Linear(channels, channels, **kwargs)])  # a list for the name `to_out.0`
        self.implementation = implementation

    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B F H W C"]:  # [B, F, H, W, C] -> same
        tokens = rearrange(self.group_norm(x), "b f h w c -> (b f) (h w) 1 c")
        q, k, v = self.to_q(tokens), self.to_k(tokens), self.to_v(tokens)
        hidden = dot_product_attention(q, k, v, implementation=self.implementation, split_queries=True)
        hidden = self.to_out[0](hidden)
        return x + rearrange(hidden, "(b f) (h w) 1 c -> b f h w c", b=x.shape[0], h=x.shape[2])


class Downsample2D(nnx.Module):
    """Halves height and width by a strided convolution, padded below and to the right only."""

    def __init__(self, channels: int, **kwargs):
        self.conv = nnx.Conv(
            channels,
            channels,
            (3, 3),
            strides=(2, 2),
            padding=((0, 1), (0, 1)),
            conv_general_dilated=flax_convolution,
            **kwargs,
        )

    def __call__(
        self, x: Float[Array, "B F H W C"]
    ) -> Float[Array, "B F h w D"]:  # [B, F, H, W, C] -> [B, F, H / 2, W / 2, C]
        return self.conv(x)


class Upsample2D(nnx.Module):
    """Doubles height and width (nearest), then convolves."""

    def __init__(self, channels: int, **kwargs):
        self.conv = Conv2d(channels, channels, 3, **kwargs)

    def __call__(
        self, x: Float[Array, "B F H W C"]
    ) -> Float[Array, "B F h w D"]:  # [B, F, H, W, C] -> [B, F, 2H, 2W, C]
        return self.conv(x.repeat(2, axis=2).repeat(2, axis=3))
