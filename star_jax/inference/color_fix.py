"""Colour correction of upscaled frames by the low-resolution input, per frame and in float32.

Frames are [F, H, W, 3] in [-1, 1], the VAE's range. The methods come from the released script (adain) and its
wavelet variant, after StableSR (arXiv 2305.07015): both work on values in [0, 1] and clip. `flat-wavelet` also
restores areas that have a single colour in the input, such as the bars of a letterbox, because any detail that a
network adds there is wrong.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from star_jax.errors import InputError

COLOR_FIXES = ("adain", "wavelet", "flat-wavelet", "none")
ON_FULL_SIZE = ("wavelet", "flat-wavelet")  # methods that need a reference of the frames' size

ADAIN_EPSILON = 1e-5  # added to variances of values in [0, 1]
WAVELET_LEVELS = 5
FLAT_LEVELS = 1.0  # of 255: a pixel is flat if values within 8 pixels around it vary by no more
FLAT_STEPS, FLAT_FADE = (1, 3, 4), (1, 2, 4)  # pixels; steps add up to 8, the fade to 7


@partial(jax.jit, static_argnames="method")
def fix_colors(frames: jax.Array, reference: jax.Array, *, method: str = "adain") -> jax.Array:
    """Gives frames the colours of a reference, float32 [F, H, W, 3] in [-1, 1].

    Args:
      frames: upscaled frames [F, H, W, 3]; values outside [-1, 1] are clipped first.
      reference: the input frames in [-1, 1]: [F, h, w, 3] of any size for `adain`, and of the size of `frames`
        (upscaled by interpolation) for `wavelet` and `flat-wavelet`; ignored by `none`.
      method: `adain` (mean and deviation of every channel), `wavelet` (the part coarser than about 64 pixels),
        `flat-wavelet` (the same, and flat areas are copied from the reference) or `none`.

    Raises:
      InputError: the method is unknown, or the reference's shape does not suit the method.
    """
    if method not in COLOR_FIXES:
        raise InputError(f"color fix is {method!r}; choose one of {', '.join(COLOR_FIXES)}")
    target = jnp.clip(_to_unit(frames), 0.0, 1.0)
    if method == "adain":
        target = _adain(target, _to_unit(reference))
    elif method in ON_FULL_SIZE:
        if reference.shape != frames.shape:
            raise InputError(
                f"the reference of the {method} color fix has shape {reference.shape}, but the frames have "
                f"{frames.shape}; resize the reference to the size of the frames"
            )
        unit = _to_unit(reference)
        target = _wavelet(target, unit)
        if method == "flat-wavelet":
            target = keep_flat_areas(target, unit, span=1.0)
    return jnp.clip(target, 0.0, 1.0) * 2.0 - 1.0


def keep_flat_areas(frames: jax.Array, reference: jax.Array, span: float = 2.0) -> jax.Array:
    """Copies areas of a single colour from the reference into frames [F, H, W, 3].

    Args:
      frames: upscaled frames.
      reference: the input frames at the same size.
      span: difference between black and white, which is 2 for values in [-1, 1].
    """
    return frames + _flatness(reference / span) * (reference - frames)


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

    The details of all levels add up to target - coarse(target), and coarse() is linear, so one pass is enough.
    """
    return target + _coarse(reference - target)


def _coarse(frames: jax.Array) -> jax.Array:
    """Coarse part of frames: blurred with the kernel (1, 2, 1)/4 along both axes, with taps 1, 2, 4, 8, 16 apart.

    The blur is a sum of shifted frames, because XLA runs depthwise convolutions very slowly on a CPU.
    """
    for level in range(WAVELET_LEVELS):
        for axis in (1, 2):
            frames = _blur(frames, 2**level, axis)
    return frames


def _flatness(frames: jax.Array) -> jax.Array:
    """[F, H, W, 1]: 1 in flat areas, 0 within a pixel of anything else, and a smooth ramp of 15 pixels between."""
    span = _extremes(frames, jnp.maximum) - _extremes(frames, jnp.minimum)
    is_flat = jnp.max(span, axis=-1, keepdims=True) <= (FLAT_LEVELS + 0.01) / 255
    flatness = is_flat.astype(jnp.float32)
    for radius in FLAT_FADE:
        for axis in (1, 2):
            flatness = _blur(flatness, radius, axis)
    return flatness


def _extremes(frames: jax.Array, largest: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
    """The largest (or smallest) value around each pixel."""
    for radius in FLAT_STEPS:
        for axis in (1, 2):
            before, after = _neighbours(frames, radius, axis)
            frames = largest(frames, largest(before, after))
    return frames


def _blur(frames: jax.Array, radius: int, axis: int) -> jax.Array:
    """(1, 2, 1)/4 along one axis with taps `radius` apart; the border is repeated."""
    before, after = _neighbours(frames, radius, axis)
    return 0.5 * frames + 0.25 * (before + after)


def _neighbours(frames: jax.Array, radius: int, axis: int) -> tuple[jax.Array, jax.Array]:
    """The values `radius` before and after each one along an axis; the border is repeated."""
    sides = [(0, 0)] * frames.ndim
    sides[axis] = (radius, radius)
    length = frames.shape[axis]
    padded = jnp.pad(frames, sides, mode="edge")
    before = jax.lax.slice_in_dim(padded, 0, length, axis=axis)
    after = jax.lax.slice_in_dim(padded, 2 * radius, 2 * radius + length, axis=axis)
    return before, after
