"""Small layers shared by the UNet and the ControlNet. Activations are [B, F, H, W, C]."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Num

from star_jax.ops.convolution import convolve_image, image_form
from star_jax.ops.group_norm import group_norm
from star_jax.ops.plain_convolution import flax_convolution


class GroupNorm(nnx.Module):
    """Group normalisation of a video, with statistics of one frame or of the whole clip, in float32.

    The released UNet normalises frame by frame in its spatial parts, and over all frames together in the temporal
    convolutions and the temporal transformers.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_groups: int,
        epsilon: float,
        over_frames: bool = False,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if channels % num_groups:
            raise ValueError(f"{channels} channels do not divide into {num_groups} groups")
        self.scale = nnx.Param(jnp.ones((channels,), param_dtype))
        self.bias = nnx.Param(jnp.zeros((channels,), param_dtype))
        self.num_groups, self.epsilon, self.dtype = num_groups, epsilon, dtype
        self.over_frames = over_frames

    def __call__(self, x: Float[Array, "B F H W C"], *, silu: bool = False) -> Float[Array, "B F H W C"]:
        """[B, F, H, W, C] -> same, followed by SiLU if `silu`."""
        return group_norm(
            x,
            self.scale[...],
            self.bias[...],
            num_groups=self.num_groups,
            epsilon=self.epsilon,
            over_frames=self.over_frames,
            silu=silu,
            dtype=self.dtype,
        )


def timestep_embedding(timesteps: Num[Array, " B"], dim: int) -> Float[Array, "B {dim}"]:
    """Sinusoids of the timestep, cosines first (original: `sinusoidal_embedding`).

    Args:
      timesteps: [B], on the training schedule (0..999).
      dim: even number of channels.

    Returns:
      [B, dim] float32.
    """
    half = dim // 2
    frequencies = jnp.exp(-math.log(10000.0) / half * jnp.arange(half, dtype=jnp.float32))
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimestepEmbedding(nnx.Module):
    """Linear, SiLU, linear on the sinusoids (original: `time_embed`)."""

    def __init__(
        self, dim: int, time_embed_dim: int, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs
    ):
        kwargs: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.dim = dim
        self.linear_1 = nnx.Linear(dim, time_embed_dim, **kwargs)
        self.linear_2 = nnx.Linear(time_embed_dim, time_embed_dim, **kwargs)

    def __call__(self, timesteps: Num[Array, " B"]) -> Float[Array, "B E"]:  # [B] -> [B, time_embed_dim]
        return self.linear_2(jax.nn.silu(self.linear_1(timestep_embedding(timesteps, self.dim))))


class Conv2d(nnx.Conv):
    """A square convolution of each frame, [B, F, H, W, C]; `padding` may differ for height and width."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        strides: int = 1,
        padding: tuple[int, int] | None = None,
        **kwargs,
    ):
        height, width = padding or (kernel_size // 2, kernel_size // 2)
        super().__init__(
            in_channels,
            out_channels,
            (kernel_size, kernel_size),
            strides=(strides, strides),
            padding=((height, height), (width, width)),
            conv_general_dilated=flax_convolution,
            **kwargs,
        )

    def __call__(  # type: ignore[override]  # without out_sharding
        self, x: Float[Array, "B F H W C"]
    ) -> Float[Array, "B F h w D"]:  # [B, F, H, W, in] -> [B, F, H', W', out]
        is_plain = (self.kernel_size, self.strides, self.padding) == ((3, 3), (1, 1), ((1, 1), (1, 1)))
        form = image_form(x.shape, self.out_features, self.dtype) if is_plain else None
        if form is None:
            return super().__call__(x)
        out = convolve_image(x.astype(self.dtype), self.kernel[...].astype(self.dtype), form)
        return out if self.bias is None else out + self.bias[...].astype(self.dtype)


class Downsample(nnx.Module):
    """Halves height and width by a strided convolution.

    The original pads height by 2 and width by 1, so the network takes latents whose height is 2 mod 8; three
    downsamplings give 90 -> 46 -> 24 -> 13.
    """

    def __init__(self, channels: int, *, padding: tuple[int, int] = (2, 1), **kwargs):
        self.conv = Conv2d(channels, channels, 3, strides=2, padding=padding, **kwargs)

    def __call__(
        self, x: Float[Array, "B F H W C"]
    ) -> Float[Array, "B F h w D"]:  # [B, F, H, W, C] -> [B, F, (H + 3) // 2, W // 2, C]
        return self.conv(x)


class Upsample(nnx.Module):
    """Doubles height and width (nearest), drops `crop_rows` rows above and below, then convolves.

    Dropping rows undoes the extra padding of `Downsample`: 13 -> 24 -> 46 -> 90.
    """

    def __init__(self, channels: int, *, crop_rows: int = 1, **kwargs):
        self.conv = Conv2d(channels, channels, 3, **kwargs)
        self.crop_rows = crop_rows

    def __call__(
        self, x: Float[Array, "B F H W C"]
    ) -> Float[Array, "B F h w D"]:  # [B, F, H, W, C] -> [B, F, 2H - 2, 2W, C]
        x = x.repeat(2, axis=2).repeat(2, axis=3)
        return self.conv(x[:, :, self.crop_rows : x.shape[2] - self.crop_rows])


def repeat_branches(x: jax.Array, batch: int) -> jax.Array:
    """Repeats x [B, ...] for every branch of guidance, one branch after the other, to [batch, ...]."""
    return x if len(x) == batch else jnp.concatenate([x] * (batch // len(x)))
