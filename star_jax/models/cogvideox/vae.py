"""CogVideoX's causal 3-D autoencoder: a latent stands for 8x8 pixels of four frames, the first for one frame.

Attribute names follow diffusers' `AutoencoderKLCogVideoX`; paper: Yang et al. 2024, arXiv 2408.06072, section
2.1. Activations are [B, F, H, W, C]; every constructor passes `dtype`, `param_dtype` and `rngs` on to its layers.

Norms look at all frames of a call. The encoder is meant to see a whole clip in one call; the decoder sees three
latents, then two at a time, and carries the last frames of every convolution's input over. If a call has many
pixels, the encoder runs over the frames in stretches (`whole_clip`) and the decoder in bands of rows (`bands`),
which gives the same numbers.
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from star_jax.config.cogvideox import CausalVAEConfig
from star_jax.models.cogvideox.bands import InBands
from star_jax.models.cogvideox.stretches import stretch_frames
from star_jax.models.cogvideox.vae_layers import (
    Cache,
    CausalConv3d,
    Downsample3D,
    GroupNorm,
    Guide,
    ResnetBlock3D,
    SpatialNorm3D,
    Upsample3D,
)
from star_jax.models.cogvideox.whole_clip import WholeClip
from star_jax.models.posterior import DiagonalGaussian
from star_jax.models.svd_vae.vae import FLOAT32_PRECISION
from star_jax.ops.remat import rematerialise

FIRST_GROUP, NEXT_GROUPS = 3, 2  # latents that the decoder sees together
# Pixels, over all frames, that the encoder and the decoder work on together.
STRETCH_PIXELS, BAND_PIXELS = 2 * 720 * 1280, 720 * 1280 // 4


class Level(nnx.Module):
    """Residual blocks of one resolution, and the layer that leads to the next resolution."""

    downsamplers: nnx.List  # in the encoder, at every level but the last
    upsamplers: nnx.List  # in the decoder, at every level but the last

    def __init__(self, in_channels: int, out_channels: int, *, num_layers: int, **kwargs):
        widths = [in_channels] + [out_channels] * (num_layers - 1)
        self.resnets = nnx.List([ResnetBlock3D(width, out_channels, **kwargs) for width in widths])


class Encoder(nnx.Module):
    """Encodes frames to the moments of latents."""

    def __init__(self, config: CausalVAEConfig, **kwargs):
        widths = config.block_out_channels
        groups: dict[str, Any] = {"num_groups": config.norm_num_groups}
        self.conv_in = CausalConv3d(config.in_channels, widths[0], **kwargs)
        self.down_blocks: nnx.List[Level] = nnx.List()
        for i, (before, after) in enumerate(zip((widths[0], *widths[:-1]), widths, strict=True)):
            level = Level(before, after, num_layers=config.layers_per_block, **groups, **kwargs)
            if i + 1 < len(widths):
                level.downsamplers = nnx.List(
                    [Downsample3D(after, in_time=i < config.temporal_levels, **kwargs)]
                )
            self.down_blocks.append(level)
        self.mid_block = Level(widths[-1], widths[-1], num_layers=2, **groups, **kwargs)
        self.norm_out = GroupNorm(widths[-1], **groups, **kwargs)
        self.conv_out = CausalConv3d(widths[-1], 2 * config.latent_channels, **kwargs)

    def __call__(self, x: jax.Array, caches: Cache = None) -> tuple[jax.Array, Cache]:
        """Moments of a stretch of frames, normalised by their own statistics, and the new caches."""
        caches = iter(caches or [])
        kept = []

        def run(layer: nnx.Module, x: jax.Array, *args: Any) -> jax.Array:
            x, cache = layer(x, *args, next(caches, None))
            kept.append(cache)
            return x

        x = run(self.conv_in, x)
        for level in (*self.down_blocks, self.mid_block):
            for block in level.resnets:
                x = run(block, x, (None, None))
            for down in getattr(level, "downsamplers", ()):
                x = down(x)
        return run(self.conv_out, jax.nn.silu(self.norm_out(x))), kept

    def whole(self, x: jax.Array, pixels: int) -> jax.Array:
        """Moments of a whole clip, normalised by its statistics, computed `pixels` at a time."""
        clip = WholeClip(self.norm_out.num_groups, pixels)
        x, statistics = clip.first(self.conv_in, x)
        for level in (*self.down_blocks, self.mid_block):
            for block in level.resnets:
                x, statistics = clip.block(block, x, statistics)
            for down in getattr(level, "downsamplers", ()):
                x, statistics = clip.down(down, x)
        return clip.last(self.norm_out, self.conv_out, x, statistics)


class Decoder(nnx.Module):
    """Decodes latents to frames, one group of latents at a time."""

    def __init__(self, config: CausalVAEConfig, *, remat: str, **kwargs):
        widths = tuple(reversed(config.block_out_channels))
        options = {"num_groups": config.norm_num_groups, "latent_channels": config.latent_channels}
        self.conv_in = CausalConv3d(config.latent_channels, widths[0], **kwargs)
        self.mid_block = Level(widths[0], widths[0], num_layers=2, **options, **kwargs)
        self.up_blocks: nnx.List[Level] = nnx.List()
        for i, (before, after) in enumerate(zip((widths[0], *widths[:-1]), widths, strict=True)):
            level = Level(before, after, num_layers=config.layers_per_block + 1, **options, **kwargs)
            if i + 1 < len(widths):
                level.upsamplers = nnx.List([Upsample3D(after, in_time=i < config.temporal_levels, **kwargs)])
            self.up_blocks.append(level)
        self.norm_out = SpatialNorm3D(
            widths[-1], config.latent_channels, num_groups=config.norm_num_groups, **kwargs
        )
        self.conv_out = CausalConv3d(widths[-1], config.out_channels, **kwargs)
        self.remat = remat

    def __call__(self, latents: jax.Array, caches: Cache = None) -> tuple[jax.Array, Cache]:
        """Frames of a group of latents, and the new caches."""
        caches = iter(caches or [])
        kept = []

        def run(layer: nnx.Module, *args: Any) -> jax.Array:
            x, cache = rematerialise(layer, self.remat)(*args, next(caches, None))
            kept.append(cache)
            return x

        guide = Guide(latents)
        x = run(self.conv_in, latents)
        for level in (self.mid_block, *self.up_blocks):
            for block in level.resnets:
                x = run(block, x, (guide, guide))
            for up in getattr(level, "upsamplers", ()):
                x = rematerialise(up, self.remat)(x)
        return run(self.conv_out, jax.nn.silu(self.norm_out(x, guide))), kept

    def in_bands(self, latents: jax.Array, caches: Cache, pixels: int) -> tuple[jax.Array, Cache]:
        """The same as `__call__`, computed in bands of `pixels` over all frames."""
        bands = InBands(latents, self.norm_out.norm_layer.num_groups, pixels)
        caches = iter(caches or [])
        x, cache = self.conv_in(latents, next(caches, None))
        kept, rows = [cache], bands.measured(x)
        for level in (self.mid_block, *self.up_blocks):
            for block in level.resnets:
                rows, cache = bands.block(block, rows, next(caches, None))
                kept.append(cache)
            for up in getattr(level, "upsamplers", ()):
                rows = bands.enlarged(rows, up)
        frames, cache = bands.last(self.norm_out, self.conv_out, rows, next(caches, None))
        return frames, [*kept, cache]


class AutoencoderKLCogVideoX(nnx.Module):
    """Encoder, posterior and decoder. Latents are unscaled here: the network's, divided by `scaling_factor`."""

    def __init__(
        self,
        config: CausalVAEConfig,
        *,
        remat: str = "none",
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        kwargs: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.encoder = Encoder(config, **kwargs)
        self.decoder = Decoder(config, remat=remat, **kwargs)
        self._temporal_factor, self._spatial_factor = config.temporal_factor, config.spatial_factor
        self._is_float32 = dtype == jnp.float32

    def encode(
        self, frames: Float[Array, "B F H W 3"], stretch_pixels: int = STRETCH_PIXELS
    ) -> DiagonalGaussian:
        """Posterior of the latents of a whole clip; every norm sees all of it.

        Args:
          frames: [B, F, H, W, 3] in [-1, 1]; H and W multiples of `CausalVAEConfig.spatial_factor`. If F is odd,
            the first frame gets its own latent.
          stretch_pixels: pixels, over all frames, that are computed together; the result does not depend on it.

        Returns:
          Mean and log variance of [B, T, h, w, latent_channels], unscaled, T = 1 + (F - 1) / 4 for F = 4 k + 1.
        """
        with self._precision():
            if stretch_frames(frames.shape[2], frames.shape[3], stretch_pixels) >= frames.shape[1]:
                moments, _ = self.encoder(frames)
            else:
                moments = self.encoder.whole(frames, stretch_pixels)
        return DiagonalGaussian.from_moments(moments)

    def encode_group(self, frames: jax.Array, caches: Cache = None) -> tuple[DiagonalGaussian, Cache]:
        """Posterior of a stretch of a clip, normalised by its own statistics, and the caches for the next stretch.

        diffusers encodes eight frames at a time, and the remainder together with the first eight. This approximates
        `encode`, and equals it for fewer than 16 frames.

        Args:
          frames: [B, F, H, W, 3] in [-1, 1].
          caches: caches that the previous group returned; None for the first group.
        """
        with self._precision():
            moments, caches = self.encoder(frames, caches)
        return DiagonalGaussian.from_moments(moments), caches

    def decode_group(
        self,
        latents: Float[Array, "B f h w C"],
        caches: Cache = None,
        band_pixels: int | None = BAND_PIXELS,
    ) -> tuple[Float[Array, "B F H W 3"], Cache]:
        """Frames of one group of latents.

        Args:
          latents: [B, T, h, w, latent_channels], unscaled; `FIRST_GROUP` of them, then `NEXT_GROUPS` at a time.
          caches: caches that the previous group returned; None for the first group.
          band_pixels: pixels, over all frames, that are computed together; the result does not depend on it. None
            computes all of them at once, which takes less memory under differentiation.

        Returns:
          [B, F, H, W, 3], roughly in [-1, 1], not clipped, with F = 4 T - 3 for an odd number of latents and 4 T
          for an even one; and the caches for the next group.
        """
        with self._precision():
            if band_pixels is None or band_pixels >= self._decoded_pixels(latents.shape):
                return self.decoder(latents, caches)
            return self.decoder.in_bands(latents, caches, band_pixels)

    def _decoded_pixels(self, shape: tuple[int, ...]) -> int:
        """Pixels of the frames of a group of latents; the first of an odd number stands for one frame."""
        _, count, height, width, _ = shape
        factor = self._temporal_factor
        return (count * factor - count % 2 * (factor - 1)) * height * width * self._spatial_factor**2

    def decode(self, latents: Float[Array, "B f h w C"]) -> Float[Array, "B F H W 3"]:
        """Frames of a clip, decoded in the same groups as in the released system.

        Args:
          latents: [B, T, h, w, latent_channels], unscaled; T odd.

        Returns:
          [B, 4 T - 3, H, W, 3].
        """
        frames, caches = self.decode_group(latents[:, :FIRST_GROUP])
        parts = [frames]
        for start in range(FIRST_GROUP, latents.shape[1], NEXT_GROUPS):
            frames, caches = self.decode_group(latents[:, start : start + NEXT_GROUPS], caches)
            parts.append(frames)
        return jnp.concatenate(parts, axis=1)

    def _precision(self) -> contextlib.AbstractContextManager:
        """Sets the matmul precision for float32, unless the user's code has chosen one."""
        chosen = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]  # jax declares no settings
        if not self._is_float32 or chosen is not None:
            return contextlib.nullcontext()
        return jax.default_matmul_precision(FLOAT32_PRECISION)
