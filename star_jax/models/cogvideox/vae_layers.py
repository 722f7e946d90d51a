"""Layers of the causal 3-D autoencoder: convolutions that look back in time, and norms over a stretch of frames.

Every causal convolution needs the two frames before its input: `cache`. None means that the clip begins, and its
first frame is repeated instead. Layers return their new cache, so that a clip can be worked on in stretches.
Attribute names follow diffusers' `AutoencoderKLCogVideoX`; activations are [B, F, H, W, C]. Every constructor
passes `dtype`, `param_dtype` and `rngs` on to its layers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import nnx
from jax.typing import DTypeLike

EPSILON = 1e-6
Cache = Any  # a pytree of [B, 2, H, W, C], or None at the beginning of a clip


class CausalConv3d(nnx.Module):
    """A 3x3x3 convolution of each frame with the two before it; in space it pads with zeros."""

    def __init__(self, in_channels: int, out_channels: int, **kwargs):
        self.conv = nnx.Conv(in_channels, out_channels, (3, 3, 3), padding=((0, 0), (1, 1), (1, 1)), **kwargs)

    def __call__(self, x: jax.Array, cache: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """[B, F, H, W, in_channels] -> [B, F, H, W, out_channels] and the last two frames of the input."""
        before = repeat(x[:, 0], "b h w c -> b f h w c", f=2) if cache is None else cache.astype(x.dtype)
        x = jnp.concatenate([before, x], axis=1)
        return self.conv(x), x[:, -2:]


class Statistics(NamedTuple):
    """Mean and sum of squared deviations of groups of channels over some frames; float32, [B, groups] each.

    Attributes:
      count: number of values in a group.
      mean: mean of the values.
      squares: sum of (x - mean)^2.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    mean: jax.Array
    squares: jax.Array

    @classmethod
    def of(cls, x: jax.Array, groups: int) -> "Statistics":
        """Statistics of x [B, F, H, W, C]."""
        x = _grouped(x.astype(jnp.float32), groups)
        axes, mean = (1, 2, 3, 5), x.mean((1, 2, 3, 5))
        squares = jnp.square(x - mean[:, None, None, None, :, None]).sum(axes)
        return cls(jnp.full(mean.shape, x.size // mean.size, jnp.float32), mean, squares)

    @classmethod
    def empty(cls, batch: int, groups: int) -> "Statistics":
        """Statistics of no frames."""
        return cls(*(jnp.zeros((batch, groups), jnp.float32) for _ in range(3)))

    def merge(self, other: "Statistics") -> "Statistics":
        """Statistics of both sets of frames (Chan et al. 1979; unlike sums of squares, this loses no digits)."""
        count = self.count + other.count
        share, difference = other.count / count, other.mean - self.mean
        squares = self.squares + other.squares + jnp.square(difference) * self.count * share
        return Statistics(count, self.mean + difference * share, squares)


def _grouped(x: jax.Array, groups: int) -> jax.Array:
    return rearrange(x, "b f h w (g c) -> b f h w g c", g=groups)


class GroupNorm(nnx.Module):
    """Group norm with the statistics of the frames of a call, or with given statistics; in float32."""

    def __init__(
        self,
        channels: int,
        *,
        num_groups: int,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        del rngs
        self.scale = nnx.Param(jnp.ones((channels,), param_dtype))
        self.bias = nnx.Param(jnp.zeros((channels,), param_dtype))
        self.num_groups, self.dtype = num_groups, dtype

    def __call__(self, x: jax.Array, statistics: Statistics | None = None) -> jax.Array:
        count, mean, squares = statistics or Statistics.of(x, self.num_groups)
        deviation = jax.lax.rsqrt(squares / count + EPSILON)
        size = x.shape[-1] // self.num_groups
        mean, deviation = (repeat(part, "b g -> b 1 1 1 (g c)", c=size) for part in (mean, deviation))
        scale = deviation * self.scale[...].astype(jnp.float32)
        shift = self.bias[...].astype(jnp.float32) - mean * scale
        return (x.astype(jnp.float32) * scale + shift).astype(self.dtype)


class PointConv3d(nnx.Module):
    """A 1x1x1 convolution (in diffusers a causal convolution of that size, hence the attribute `conv`)."""

    def __init__(self, in_channels: int, out_channels: int, **kwargs):
        self.conv = nnx.Linear(in_channels, out_channels, **kwargs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(x)


class Guide(NamedTuple):
    """Guidance of a norm of the decoder: a group's latents, and the position of the given rows in the frames.

    Attributes:
      latents: [B, T, h, w, C].
      statistics: statistics of the whole group's activations; None for those of the given rows.
      height: number of rows of the whole frames; None if all rows are given.
      start: first of the given rows; rows outside the frames may have any values.
    """

    latents: jax.Array
    statistics: Statistics | None = None
    height: int | None = None
    start: int | jax.Array = 0


class SpatialNorm3D(nnx.Module):
    """Group norm scaled and shifted by the latents: GN(x) y(z) + b(z), with z enlarged (nearest) to x's size."""

    def __init__(self, channels: int, latent_channels: int, *, num_groups: int, **kwargs):
        self.norm_layer = GroupNorm(channels, num_groups=num_groups, **kwargs)
        self.conv_y = PointConv3d(latent_channels, channels, **kwargs)
        self.conv_b = PointConv3d(latent_channels, channels, **kwargs)

    def __call__(self, x: jax.Array, guide: Guide) -> jax.Array:
        # Pointwise linear maps commute with copying points, so they run first, on fewer points.
        y, b = (enlarge_like(guide, point(guide.latents), x) for point in (self.conv_y, self.conv_b))
        return self.norm_layer(x, guide.statistics) * y + b


def enlarge_like(guide: Guide, points: jax.Array, x: jax.Array) -> jax.Array:
    """Points [B, T, h, w, C], one per latent, repeated to the frames, height and width of x."""
    count, height, width = x.shape[1:4]
    points = points[:, latent_of_frames(count, points.shape[1])]
    if guide.height is None:
        points = _repeat(points, height // points.shape[2], 2)
    else:
        row = jnp.clip(guide.start + jnp.arange(height), 0, guide.height - 1)
        points = points[:, :, row // (guide.height // points.shape[2])]
    return _repeat(points, width // points.shape[3], 3)


def latent_of_frames(frames: int, latents: int) -> np.ndarray:
    """The latent of each frame, int32 [frames]; the first of an odd number of frames has its own latent."""
    if frames == 1 or frames % 2 == 0:
        return np.arange(frames, dtype=np.int32) // (frames // latents)
    rest = np.arange(frames - 1, dtype=np.int32) // ((frames - 1) // (latents - 1))
    return np.concatenate([[0], 1 + rest]).astype(np.int32)


def _repeat(x: jax.Array, times: int, axis: int) -> jax.Array:
    """Repeats every entry of an axis `times` times in a row, as a broadcast that XLA fuses."""
    if times == 1:
        return x
    shape = (*x.shape[: axis + 1], times, *x.shape[axis + 1 :])
    wide = jnp.broadcast_to(jnp.expand_dims(x, axis + 1), shape)
    return jax.lax.collapse(wide, axis, axis + 2)


class ResnetBlock3D(nnx.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); the decoder's norms also look at the latents."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_groups: int,
        latent_channels: int | None = None,
        **kwargs,
    ):
        def norm(channels: int) -> nnx.Module:
            if latent_channels is None:
                return GroupNorm(channels, num_groups=num_groups, **kwargs)
            return SpatialNorm3D(channels, latent_channels, num_groups=num_groups, **kwargs)

        self.norm1 = norm(in_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels, **kwargs)
        self.norm2 = norm(out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels, **kwargs)
        self.conv_shortcut = (
            nnx.Linear(in_channels, out_channels, **kwargs) if in_channels != out_channels else None
        )

    def __call__(self, x: jax.Array, about: Any, cache: Cache = None) -> tuple[jax.Array, Cache]:
        """Applies the block.

        Args:
          x: [B, F, H, W, in_channels].
          about: second argument of each of the two norms: a `Guide`, statistics or None.
          cache: cache of the frames before.

        Returns:
          [B, F, H, W, out_channels] and the new cache.
        """
        hidden, first = self.first_half(x, about[0], cache and cache[0])
        hidden, second = self.conv2(jax.nn.silu(self.norm2(hidden, about[1])), cache and cache[1])
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + hidden, (first, second)

    def first_half(self, x: jax.Array, about: Any, cache: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """The input of the second norm, and the first convolution's new cache."""
        return self.conv1(jax.nn.silu(self.norm1(x, about)), cache)


class Downsample3D(nnx.Module):
    """Halves height and width by a strided convolution; with `in_time` it first averages pairs of frames."""

    def __init__(self, channels: int, *, in_time: bool, **kwargs):
        self.conv = nnx.Conv(channels, channels, (3, 3), strides=2, padding=((0, 1), (0, 1)), **kwargs)
        self.in_time = in_time

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(halve_frames(x) if self.in_time else x)


def halve_frames(x: jax.Array) -> jax.Array:
    """Means of pairs of frames; the first of an odd number is kept as it is."""
    first, rest = x[:, : x.shape[1] % 2], x[:, x.shape[1] % 2 :]
    pairs = rearrange(rest, "b (f two) h w c -> b f two h w c", two=2).mean(2).astype(x.dtype)
    return jnp.concatenate([first, pairs], axis=1)


class Upsample3D(nnx.Module):
    """Doubles height and width (nearest) and, with `in_time`, the frames, except the first of an odd number."""

    def __init__(self, channels: int, *, in_time: bool, **kwargs):
        self.conv = nnx.Conv(channels, channels, (3, 3), padding=1, **kwargs)
        self.in_time = in_time

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.in_time and x.shape[1] > 1:
            first, rest = x[:, : x.shape[1] % 2], x[:, x.shape[1] % 2 :]
            x = jnp.concatenate([first, _repeat(rest, 2, 1)], axis=1)
        return self.conv(_repeat(_repeat(x, 2, 2), 2, 3))
