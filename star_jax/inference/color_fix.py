"""Colour correction of upscaled frames by the low-resolution input, per frame and in float32.

Frames are [F, H, W, 3] in [-1, 1], the VAE's range. The methods come from the released script (adain) and its
wavelet variant, after StableSR (arXiv 2305.07015): both work on values in [0, 1] and clip.
"""

from functools import partial

import jax
import jax.numpy as jnp

from star_jax.errors import InputError

COLOR_FIXES = ("adain", "wavelet", "none")

ADAIN_EPSILON = 1e-5  # added to variances of values in [0, 1]
WAVELET_LEVELS = 5


@partial(jax.jit, static_argnames="method")
def fix_colors(frames: jax.Array, reference: jax.Array, *, method: str = "adain") -> jax.Array:
    """Gives frames the colours of a reference, float32 [F, H, W, 3] in [-1, 1].

    Args:
      frames: upscaled frames [F, H, W, 3]; values outside [-1, 1] are clipped first.
      reference: the input frames in [-1, 1]: [F, h, w, 3] of any size for `adain`, the size of `frames`
        (upscaled by interpolation) for `wavelet`; not looked at by `none`.
      method: `adain` (mean and deviation of every channel), `wavelet` (the part coarser
        than about 64 pixels) or `none`.

    Raises:
      InputError: unknown method, or a reference of another shape for `wavelet`.
    """
    if method not in COLOR_FIXES:
        raise InputError(f"color fix is {method!r}; choose one of {', '.join(COLOR_FIXES)}")
    target = jnp.clip(_to_unit(frames), 0.0, 1.0)
    if method == "adain":
        target = _adain(target, _to_unit(reference))
    elif method == "wavelet":
        if reference.shape != frames.shape:
            raise InputError(
                f"the wavelet color fix got a reference of shape {reference.shape} for frames of shape "
                f"{frames.shape}; resize the reference to the frames"
            )
        target = _wavelet(target, _to_unit(reference))
    return jnp.clip(target, 0.0, 1.0) * 2.0 - 1.0


def _to_unit(frames: jax.Array) -> jax.Array:
    return (frames.astype(jnp.float32) + 1.0) / 2.0


def _adain(target: jax.Array, reference: jax.Array) -> jax.Array:
    """Matches mean and deviation per frame and channel: Huang and Belongie (arXiv 1703.06868), equation 8."""
    target_mean, target_std = _channel_statistics(target)
    reference_mean, reference_std = _channel_statistics(reference)
    return (target - target_mean) / target_std * reference_std + reference_mean


def _channel_statistics(frames: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and unbiased deviation over height and width, [F, 1, 1, 3]."""
    mean = jnp.mean(frames, (1, 2), keepdims=True)
    variance = jnp.var(frames, (1, 2), ddof=1, keepdims=True)
    return mean, jnp.sqrt(variance + ADAIN_EPSILON)


def _wavelet(target: jax.Array, reference: jax.Array) -> jax.Array:
    """Takes the coarse part from the reference and keeps the details of the target.

    The details of all levels add up to target - coarse(target), and coarse() is linear: one pass is enough.
    """
    return target + _coarse(reference - target)


def _coarse(frames: jax.Array) -> jax.Array:
    """Coarse part of frames: blurred with the kernel (1, 2, 1)/4 along both axes, its taps 1, 2, 4, 8, 16 apart.

    Shifted sums rather than a depthwise convolution, which XLA runs very slowly on a CPU.
    """
    for level in range(WAVELET_LEVELS):
        for axis in (1, 2):
            frames = _blur(frames, 2**level, axis)
    return frames


def _blur(frames: jax.Array, radius: int, axis: int) -> jax.Array:
    """(1, 2, 1)/4 along one axis with taps `radius` apart; the border is repeated."""
    sides = [(0, 0)] * frames.ndim
    sides[axis] = (radius, radius)
    length = frames.shape[axis]
    padded = jnp.pad(frames, sides, mode="edge")
    before = jax.lax.slice_in_dim(padded, 0, length, axis=axis)
    after = jax.lax.slice_in_dim(padded, 2 * radius, 2 * radius + length, axis=axis)
    return 0.5 * frames + 0.25 * (before + after)
