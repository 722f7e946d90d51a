"""Group normalisation of videos in float32, with the SiLU that usually follows.

Its statistics have two forms. `two_pass` reads the video once for the mean and once for the variance. `one_read`, a
Pallas kernel for GPUs, reads it once: it computes the mean of each block of pixels and the sum of squared
differences from it, and combines them (Chan et al. 1979), which is as exact as two passes.
"""

import functools
import math

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.experimental import pallas as pl
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from star_jax.ops.platform import target_platform
from star_jax.ops.variants import variant_of
from star_jax.parallel.activations import on_several_devices

_FRAME_AXES = (2, 3, 5)  # axes of [B, F, H, W, groups, C / groups]
_CLIP_AXES = (1, 2, 3, 5)
# Block of one program of the kernel: it fits the registers, and a row of channels is one memory transaction.
_BLOCK_PIXELS, _BLOCK_CHANNELS, _WARPS = 128, 64, 4


def group_norm(
    x: Float[Array, "B F H W C"],
    scale: Float[Array, " C"],
    bias: Float[Array, " C"],
    *,
    num_groups: int,
    epsilon: float,
    over_frames: bool,
    silu: bool,
    dtype: DTypeLike,
) -> Float[Array, "B F H W C"]:
    """Normalises x by the statistics of each frame, or of the whole clip (`over_frames`).

    Args:
      x: [B, F, H, W, C].
      scale, bias: [C].
      num_groups: number of groups of channels; a group shares its statistics.
      epsilon: added to the variance.
      over_frames: statistics over all frames of a clip, not frame by frame.
      silu: apply SiLU to the result.
      dtype: dtype of the result.

    Returns:
      [B, F, H, W, C].
    """
    grouped = rearrange(x.astype(jnp.float32), "... (g c) -> ... g c", g=num_groups)
    if variant_of("group_norm") == "one_read" and not on_several_devices():
        mean, variance = one_read_statistics(x, num_groups, over_frames)
    else:
        axes = _CLIP_AXES if over_frames else _FRAME_AXES
        mean = grouped.mean(axes, keepdims=True)
        variance = jnp.square(grouped - mean).mean(axes, keepdims=True)
    # Scale and shift folded into one multiply-add per element.
    scale = scale.astype(jnp.float32).reshape(num_groups, -1) * jax.lax.rsqrt(variance + epsilon)
    shift = bias.astype(jnp.float32).reshape(num_groups, -1) - mean * scale
    out = rearrange(grouped * scale + shift, "... g c -> ... (g c)")
    return (jax.nn.silu(out) if silu else out).astype(dtype)


def one_read_statistics(x: jax.Array, num_groups: int, over_frames: bool) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of x [B, F, H, W, C], each [B, F or 1, 1, 1, groups, 1] in float32."""
    pattern = "b f h w c -> b (f h w) c" if over_frames else "b f h w c -> (b f) (h w) c"
    rows = rearrange(x, pattern)
    mean, variance = _moments(rows, num_groups)
    mean, variance = (rearrange(m, "(b f) g -> b f 1 1 g 1", b=len(x)) for m in (mean, variance))
    return mean, variance


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _moments(x: jax.Array, num_groups: int) -> tuple[jax.Array, jax.Array]:
    """Mean and variance [N, groups] of x [N, pixels, C]."""
    _, pixels, channels = x.shape
    block_means, block_squares = _block_moments(x)  # [N, blocks, C]
    starts = jnp.arange(block_means.shape[1]) * _BLOCK_PIXELS
    counts = jnp.minimum(pixels - starts, _BLOCK_PIXELS).astype(jnp.float32)[:, None, None]
    means, squares = (
        rearrange(m, "n blocks (g c) -> n blocks g c", g=num_groups) for m in (block_means, block_squares)
    )
    total = pixels * (channels // num_groups)
    mean = (means * counts).sum((1, 3)) / total
    between = jnp.square(means - mean[:, None, :, None]) * counts
    return mean, (squares + between).sum((1, 3)) / total


def _moments_forward(x: jax.Array, num_groups: int):
    mean, variance = _moments(x, num_groups)
    return (mean, variance), (x, mean)


def _moments_backward(num_groups: int, kept: tuple, gradients: tuple):
    x, mean = kept
    of_mean, of_variance = (rearrange(g, "n g -> n 1 g 1") for g in gradients)
    grouped = rearrange(x.astype(jnp.float32), "n p (g c) -> n p g c", g=num_groups)
    total = x.shape[1] * (x.shape[2] // num_groups)
    centred = grouped - rearrange(mean, "n g -> n 1 g 1")
    gradient = (of_mean + 2 * centred * of_variance) / total
    return (rearrange(gradient, "n p g c -> n p (g c)").astype(x.dtype),)


_moments.defvjp(_moments_forward, _moments_backward)


def _block_moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and sum of squared differences from it, per block of pixels and channel of x [N, pixels, C]; float32."""
    from jax.experimental.pallas import triton

    n, pixels, channels = x.shape
    blocks, parts = math.ceil(pixels / _BLOCK_PIXELS), math.ceil(channels / _BLOCK_CHANNELS)

    # One pixel's channels lie side by side, so they vary fastest in the grid's first axis, which has no limit.
    def index(i: jax.Array, j: jax.Array) -> tuple[jax.Array, ...]:
        return j, i // parts, i % parts

    out = jax.ShapeDtypeStruct((n, blocks, channels), jnp.float32)
    out_spec = pl.BlockSpec((None, None, _BLOCK_CHANNELS), index)
    return pl.pallas_call(
        functools.partial(_block_moments_kernel, pixels=pixels, channels=channels),
        grid=(blocks * parts, n),
        in_specs=[pl.BlockSpec((None, _BLOCK_PIXELS, _BLOCK_CHANNELS), index)],
        out_specs=[out_spec, out_spec],
        out_shape=[out, out],
        compiler_params=triton.CompilerParams(num_warps=_WARPS),
        interpret=target_platform() == "cpu",
        name="block_moments",
    )(x)


def _block_moments_kernel(x_ref, mean_ref, squares_ref, *, pixels: int, channels: int):
    from jax.experimental.pallas import triton

    parts = math.ceil(channels / _BLOCK_CHANNELS)
    first_row = pl.program_id(0) // parts * _BLOCK_PIXELS
    row = first_row + jnp.arange(_BLOCK_PIXELS)
    channel = pl.program_id(0) % parts * _BLOCK_CHANNELS + jnp.arange(_BLOCK_CHANNELS)
    in_channels = channel < channels
    inside = (row < pixels)[:, None] & in_channels[None]
    x = triton.load(x_ref, mask=inside, other=0.0).astype(jnp.float32)
    count = jnp.minimum(pixels - first_row, _BLOCK_PIXELS)
    mean = x.sum(0) / count.astype(jnp.float32)
    squares = jnp.where(inside, jnp.square(x - mean[None]), 0.0).sum(0)
    triton.store(mean_ref, mean, mask=in_channels)
    triton.store(squares_ref, squares, mask=in_channels)
