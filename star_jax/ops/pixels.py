"""Frames as pixels and as what the networks take: uint8, and float in [-1, 1]."""

import jax
import jax.numpy as jnp


def to_float(frames: jax.Array) -> jax.Array:
    """uint8 of any shape -> float32 in [-1, 1]."""
    return frames.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(frames: jax.Array) -> jax.Array:
    """Float in about [-1, 1], of any shape -> uint8, clipped and rounded (halves to the even level)."""
    return jnp.rint(jnp.clip((frames + 1.0) * 127.5, 0.0, 255.0)).astype(jnp.uint8)


def enlarge(frames: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear enlargement with half-pixel centres: float [..., h, w, C] -> [..., H, W, C]; size (H, W)."""
    shape = (*frames.shape[:-3], *size, frames.shape[-1])
    return frames if frames.shape == shape else jax.image.resize(frames, shape, "bilinear")
