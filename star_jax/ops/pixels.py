"""Frames as pixels and as what the networks take: uint8 or uint16, and float in [-1, 1]."""

import jax
import jax.numpy as jnp


def to_float(frames: jax.Array) -> jax.Array:
    """uint8 or uint16 (over its whole range) of any shape -> float32 in [-1, 1]."""
    return frames.astype(jnp.float32) / _half_range(frames.dtype) - 1.0


def to_pixels(frames: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Float in about [-1, 1], of any shape -> uint8 or uint16, clipped and rounded (halves to the even level)."""
    half = _half_range(dtype)
    return jnp.rint(jnp.clip((frames + 1.0) * half, 0.0, 2 * half)).astype(dtype)


def to_uint8(frames: jax.Array) -> jax.Array:
    """`to_pixels` with 8 bits."""
    return to_pixels(frames, jnp.uint8)


def _half_range(dtype: jnp.dtype) -> float:
    return jnp.iinfo(dtype).max / 2


def enlarge(frames: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear enlargement with half-pixel centres: float [..., h, w, C] -> [..., H, W, C]; size (H, W)."""
    shape = (*frames.shape[:-3], *size, frames.shape[-1])
    return frames if frames.shape == shape else jax.image.resize(frames, shape, "bilinear")
