"""Gaussian noise keyed by what it is for and by the frame it falls on, never by order of drawing."""

import zlib

import jax
import jax.numpy as jnp


def noise_key(seed: int) -> jax.Array:
    """The key all noise of one run is derived from.

    Threefry by name: other generators give other numbers under `vmap`, that is with another number of frames.
    """
    return jax.random.key(seed, impl="threefry2x32")


def frame_noise(
    key: jax.Array,
    name: str,
    shape: tuple[int, ...],
    *,
    index: int | jax.Array = 0,
    first_frame: int | jax.Array = 0,
) -> jax.Array:
    """Standard normal noise, float32 `shape` = [B, F, H, W, C].

    Frame f is normal(fold_in(fold_in(fold_in(key, crc32(name)), index), first_frame + f)), so it is the same
    whatever number of frames, window or device it is drawn with.

    Args:
      key: key of the run, see `noise_key`.
      name: purpose of the noise ("start", "sde", ...).
      index: position among the draws of that name, for example the solver's step.
      first_frame: position in the video of the first frame drawn.
    """
    base = jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(name.encode())), index)
    batch, num_frames, *rest = shape

    def one_frame(frame: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(base, frame), (batch, *rest), jnp.float32)

    return jax.vmap(one_frame, out_axes=1)(first_frame + jnp.arange(num_frames))


def sde_noise(key: jax.Array, index: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The noise a stochastic solver adds at its step `index`, float32 `shape` = [B, F, H, W, C]."""
    return frame_noise(key, "sde", shape, index=index)
