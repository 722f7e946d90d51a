"""Stable Video Diffusion's autoencoder: an image encoder for single frames and a decoder that blends across frames.

Original: diffusers' `AutoencoderKLTemporalDecoder` (attribute names are the same); papers: Blattmann et al. 2023,
"Stable Video Diffusion", arXiv 2311.15127, after Rombach et al. 2022, arXiv 2112.10752. Activations are
[B, F, H, W, C]; every constructor passes `dtype`, `param_dtype` and `rngs` on to its layers.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from star_jax.config import VAEConfig
from star_jax.models.layers import Conv2d, GroupNorm
from star_jax.models.posterior import DiagonalGaussian
from star_jax.models.resnet import TemporalConv
from star_jax.models.svd_vae.blocks import (
    SPATIAL_EPSILON,
    Attention,
    Downsample2D,
    ResnetBlock2D,
    SpatioTemporalResBlock,
    Upsample2D,
)
from star_jax.models.whole_weights import gathered
from star_jax.ops.remat import rematerialise
from star_jax.parallel.activations import split_columns

# Matmul precision for float32. By default a TPU multiplies in bfloat16, which puts decoded frames off by several
# levels of 255 (docs/benchmarks.md). `high` means three bfloat16 products on a TPU, and TF32 on a GPU.
FLOAT32_PRECISION = "high"


class DownEncoderBlock2D(nnx.Module):
    """Residual blocks of one resolution, then a downsampling except at the coarsest resolution."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_layers: int,
        num_groups: int,
        add_downsample: bool,
        **kwargs,
    ):
        widths = [in_channels] + [out_channels] * (num_layers - 1)
        self.resnets = nnx.List(
            [ResnetBlock2D(width, out_channels, num_groups=num_groups, **kwargs) for width in widths]
        )
        self.downsamplers = nnx.List([Downsample2D(out_channels, **kwargs)] if add_downsample else [])

    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B F h w D"]:
        for block in [*self.resnets, *self.downsamplers]:
            x = block(x)
        return x


class UNetMidBlock2D(nnx.Module):
    """Residual block, attention, residual block, all on single frames."""

    def __init__(self, channels: int, *, num_groups: int, attention: str, **kwargs):
        self.resnets = nnx.List(
            [ResnetBlock2D(channels, channels, num_groups=num_groups, **kwargs) for _ in range(2)]
        )
        self.attentions = nnx.List(
            [Attention(channels, num_groups=num_groups, implementation=attention, **kwargs)]
        )

    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B F H W C"]:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Encoder(nnx.Module):
    """Encodes frames [B, F, H, W, in_channels] to [B, F, h, w, 2 * latent_channels], each on its own."""

    def __init__(
        self,
        in_channels: int,
        latent_channels: int,
        *,
        block_out_channels: Sequence[int],
        layers_per_block: int,
        num_groups: int,
        attention: str,
        **kwargs,
    ):
        fine, coarse = block_out_channels[0], block_out_channels[-1]
        self.conv_in = Conv2d(in_channels, fine, 3, **kwargs)
        self.down_blocks = nnx.List(
            [
                DownEncoderBlock2D(
                    before,
                    after,
                    num_layers=layers_per_block,
                    num_groups=num_groups,
                    add_downsample=level + 1 < len(block_out_channels),
                    **kwargs,
                )
                for level, (before, after) in enumerate(
                    zip((fine, *block_out_channels[:-1]), block_out_channels, strict=True)
                )
            ]
        )
        self.mid_block = UNetMidBlock2D(coarse, num_groups=num_groups, attention=attention, **kwargs)
        self.conv_norm_out = GroupNorm(coarse, num_groups=num_groups, epsilon=SPATIAL_EPSILON, **kwargs)
        self.conv_out = Conv2d(coarse, 2 * latent_channels, 3, **kwargs)

    def __call__(self, x: Float[Array, "B F H W 3"]) -> Float[Array, "B F h w D"]:
        x = self.conv_in(split_columns(x))
        for block in self.down_blocks:
            x = split_columns(block(x))
        x = self.mid_block(x)
        return self.conv_out(self.conv_norm_out(x, silu=True))


class MidBlockTemporalDecoder(nnx.Module):
    """Spatio-temporal block, attention within each frame, spatio-temporal block.

    diffusers builds `layers_per_block` residual blocks here but runs the first two; released models have two.
    """

    def __init__(self, channels: int, *, num_groups: int, attention: str, remat: str, **kwargs):
        self.resnets = nnx.List(
            [SpatioTemporalResBlock(channels, channels, num_groups=num_groups, **kwargs) for _ in range(2)]
        )
        self.attentions = nnx.List(
            [Attention(channels, num_groups=num_groups, implementation=attention, **kwargs)]
        )
        self.remat = remat

    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B F H W C"]:
        for block in (self.resnets[0], self.attentions[0], self.resnets[1]):
            x = rematerialise(block, self.remat)(x)
        return x


class UpBlockTemporalDecoder(nnx.Module):
    """Spatio-temporal blocks of one resolution, then an upsampling except at the finest resolution."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_layers: int,
        num_groups: int,
        add_upsample: bool,
        remat: str,
        **kwargs,
    ):
        widths = [in_channels] + [out_channels] * (num_layers - 1)
        self.resnets = nnx.List(
            [SpatioTemporalResBlock(width, out_channels, num_groups=num_groups, **kwargs) for width in widths]
        )
        self.upsamplers = nnx.List([Upsample2D(out_channels, **kwargs)] if add_upsample else [])
        self.remat = remat

    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B F h w D"]:
        for block in [*self.resnets, *self.upsamplers]:
            x = rematerialise(block, self.remat)(x)
        return x


class TemporalDecoder(nnx.Module):
    """Decodes latents [B, F, h, w, latent_channels] of one group of frames to [B, F, H, W, out_channels]."""

    def __init__(
        self,
        latent_channels: int,
        out_channels: int,
        *,
        block_out_channels: Sequence[int],
        layers_per_block: int,
        num_groups: int,
        attention: str,
        remat: str,
        **kwargs,
    ):
        fine, coarse = block_out_channels[0], block_out_channels[-1]
        widths = tuple(reversed(block_out_channels))
        self.conv_in = Conv2d(latent_channels, coarse, 3, **kwargs)
        self.mid_block = MidBlockTemporalDecoder(
            coarse, num_groups=num_groups, attention=attention, remat=remat, **kwargs
        )
        self.up_blocks = nnx.List(
            [
                UpBlockTemporalDecoder(
                    before,
                    after,
                    num_layers=layers_per_block + 1,
                    num_groups=num_groups,
                    add_upsample=level + 1 < len(widths),
                    remat=remat,
                    **kwargs,
                )
                for level, (before, after) in enumerate(zip((coarse, *widths[:-1]), widths, strict=True))
            ]
        )
        self.conv_norm_out = GroupNorm(fine, num_groups=num_groups, epsilon=SPATIAL_EPSILON, **kwargs)
        self.conv_out = Conv2d(fine, out_channels, 3, **kwargs)
        self.time_conv_out = TemporalConv(out_channels, columns=True, **kwargs)

    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B F h w 3"]:
        x = self.conv_in(split_columns(x))
        x = self.mid_block(x)
        for block in self.up_blocks:
            x = split_columns(block(x))
        return self.time_conv_out(self.conv_out(self.conv_norm_out(x, silu=True)))


class AutoencoderKLTemporalDecoder(nnx.Module):
    """Encoder, posterior and temporal decoder, on unscaled latents: the network's, divided by `scaling_factor`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        latent_channels: int,
        block_out_channels: Sequence[int],
        layers_per_block: int,
        norm_num_groups: int,
        *,
        attention: str = "auto",
        remat: str = "none",
        dtype: DTypeLike,
        decoder_dtype: DTypeLike | None = None,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        kwargs: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        of_decoder = kwargs | {"dtype": decoder_dtype or dtype}
        sizes: dict[str, Any] = {
            "block_out_channels": block_out_channels,
            "layers_per_block": layers_per_block,
            "num_groups": norm_num_groups,
            "attention": attention,
        }
        self._is_float32 = dtype == jnp.float32
        self.encoder = Encoder(in_channels, latent_channels, **sizes, **kwargs)
        self.quant_conv = Conv2d(2 * latent_channels, 2 * latent_channels, 1, **kwargs)
        self.decoder = TemporalDecoder(latent_channels, out_channels, remat=remat, **sizes, **of_decoder)

    @classmethod
    def from_config(
        cls,
        config: VAEConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        decoder_dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
        attention: str = "auto",
        remat: str = "none",
    ) -> "AutoencoderKLTemporalDecoder":
        """Builds the autoencoder of a preset.

        `attention` names a kernel of `star_jax.ops.attention`, `remat` a policy of `star_jax.ops.remat` for the
        decoder's residual blocks. `decoder_dtype` is the decoder's dtype, by default `dtype`; the released system
        decodes in float16. Statistics of norms are float32 in any case.
        """
        return cls(
            config.in_channels,
            config.out_channels,
            config.latent_channels,
            config.block_out_channels,
            config.layers_per_block,
            config.norm_num_groups,
            attention=attention,
            remat=remat,
            dtype=dtype,
            decoder_dtype=decoder_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def encode(self, frames: Float[Array, "B F H W 3"]) -> DiagonalGaussian:
        """Posterior of the latents, every frame on its own.

        Args:
          frames: [B, F, H, W, 3] in [-1, 1]; H and W multiples of `VAEConfig.spatial_factor`.

        Returns:
          Mean and log variance of [B, F, h, w, latent_channels], unscaled.
        """
        with self._precision():
            return DiagonalGaussian.from_moments(gathered(self.quant_conv)(gathered(self.encoder)(frames)))

    def decode(self, latents: Float[Array, "B F h w C"]) -> Float[Array, "B F H W 3"]:
        """Frames of one group: the temporal layers see its F frames together, and zeros before and after.

        Args:
          latents: [B, F, h, w, latent_channels], unscaled.

        Returns:
          [B, F, H, W, 3], roughly in [-1, 1], not clipped.
        """
        with self._precision():
            return gathered(self.decoder)(latents)

    def _precision(self) -> contextlib.AbstractContextManager:
        """Sets the matmul precision for float32, unless the user's code has chosen one."""
        chosen = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]  # jax declares no settings
        if not self._is_float32 or chosen is not None:
            return contextlib.nullcontext()
        return jax.default_matmul_precision(FLOAT32_PRECISION)
