"""Converts frames between pixels (uint8 or uint16) and the networks' input (float in [-1, 1])."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt, UInt8

_CUBIC = -0.75  # PyTorch's coefficient; other libraries use -0.5


def to_float(frames: UInt[Array, "*N"]) -> Float[Array, "*N"]:
    """uint8 or uint16 (over its whole range) of any shape -> float32 in [-1, 1]."""
    return frames.astype(jnp.float32) / _half_range(frames.dtype) - 1.0


def to_pixels(frames: Float[Array, "*N"], dtype: DTypeLike) -> UInt[Array, "*N"]:
    """Float in about [-1, 1], of any shape -> uint8 or uint16, clipped and rounded (halves to the even level)."""
    half = _half_range(dtype)
    return jnp.rint(jnp.clip((frames + 1.0) * half, 0.0, 2 * half)).astype(dtype)


def to_uint8(frames: Float[Array, "*N"]) -> UInt8[Array, "*N"]:
    """`to_pixels` with 8 bits."""
    return to_pixels(frames, jnp.uint8)


def _half_range(dtype: DTypeLike) -> float:
    return jnp.iinfo(dtype).max / 2


def enlarge(frames: Float[Array, "*F h w C"], size: tuple[int, int]) -> Float[Array, "*F H W C"]:
    """Bilinear enlargement with half-pixel centres: float [..., h, w, C] -> [..., H, W, C]; size (H, W)."""
    shape = (*frames.shape[:-3], *size, frames.shape[-1])
    return frames if frames.shape == shape else jax.image.resize(frames, shape, "bilinear")


def resize_levels(frames: jax.Array, size: tuple[int, int], method: str = "bicubic") -> jax.Array:
    """Resizes uint8 frames as PyTorch does: along the width, rounded to whole levels, then along the height.

    It uses half-pixel centres, repeats the borders and does not filter against aliasing. Where a cubic overshoots,
    the result differs by up to 23 levels from resizing in floating point.

    Args:
      frames: uint8 [..., h, w, C].
      size: (H, W).
      method: `bicubic` or `bilinear`.

    Returns:
      [..., H, W, C], whole levels 0..255 as float32.
    """
    levels = frames.astype(jnp.float32)
    for axis, length in ((-2, size[1]), (-3, size[0])):
        if levels.shape[axis] != length:
            weights = jnp.asarray(_taps(levels.shape[axis], length, method))
            with jax.default_matmul_precision("highest"):
                levels = jnp.moveaxis(jnp.moveaxis(levels, axis, -1) @ weights, -1, axis)
            levels = jnp.clip(jnp.floor(levels + 0.5), 0.0, 255.0)
    return levels


def _taps(before: int, after: int, method: str) -> np.ndarray:
    """Weight of each of `before` pixels in each of `after` pixels, float32 [before, after]."""
    place = (np.arange(after) + 0.5) * before / after - 0.5
    first = np.floor(place).astype(int)
    t = place - first
    offsets: tuple[int, ...]
    if method == "bicubic":
        offsets = (-1, 0, 1, 2)
        weights = [_cubic(t + 1), _cubic(t), _cubic(1 - t), _cubic(2 - t)]
    else:
        offsets, weights = (0, 1), [1 - t, t]
    matrix = np.zeros((before, after))
    for offset, weight in zip(offsets, weights, strict=True):
        np.add.at(matrix, (np.clip(first + offset, 0, before - 1), np.arange(after)), weight)
    return matrix.astype(np.float32)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic at distances 0..2."""
    near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x**2 + 1
    far = _CUBIC * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, far)
