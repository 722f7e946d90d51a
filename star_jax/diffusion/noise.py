"""Gaussian noise keyed by purpose and frame, never by the order in which it is drawn."""

import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


def noise_key(seed: int) -> Key[Array, ""]:
    """The key from which all noise of one run is derived.

    The generator is always Threefry: others give different numbers under `vmap` when the number of frames changes.
    """
    return jax.random.key(seed, impl="threefry2x32")


def named_key(key: Key[Array, ""], name: str) -> Key[Array, ""]:
    """The key for one purpose, such as "start" or "timestep"."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def frame_noise(
    key: Key[Array, ""],
    name: str,
    shape: tuple[int, ...],
    *,
    index: int | Int[Array, ""] = 0,
    first_frame: int | Int[Array, ""] = 0,
) -> Float[Array, "..."]:
    """Standard normal noise, float32 `shape` = [B, F, H, W, C].

    Frame f is normal(fold_in(fold_in(named_key(key, name), index), first_frame + f)), so it does not depend on the
    number of frames, the window or the device.

    Args:
      key: key of the run, see `noise_key`.
      name: purpose of the noise ("start", "sde", ...).
      index: position among the draws of that name, for example the solver's step.
      first_frame: position in the video of the first frame drawn.
    """
    base = jax.random.fold_in(named_key(key, name), index)
    batch, num_frames, *rest = shape

    def one_frame(frame: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(base, frame), (batch, *rest), jnp.float32)

    return jax.vmap(one_frame, out_axes=1)(first_frame + jnp.arange(num_frames))


def sde_noise(
    key: Key[Array, ""], index: int | Int[Array, ""], shape: tuple[int, ...]
) -> Float[Array, "..."]:
    """The noise that a stochastic solver adds at step `index`, float32 `shape` = [B, F, H, W, C]."""
    return frame_noise(key, "sde", shape, index=index)
