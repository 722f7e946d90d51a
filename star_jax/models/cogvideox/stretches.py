"""Runs over a clip a few frames at a time within one program, so that memory holds little more than one copy."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Step = Callable[[Any, jax.Array], tuple[Any, Any]]  # (carry, frames) -> (carry, frames or None)


def stretch_frames(height: int, width: int, pixels: int) -> int:
    """Number of frames to work on together: even, with at most `pixels` pixels in all, but at least 2."""
    return max(2, pixels // (height * width) // 2 * 2)


def in_stretches(step: Step, x: jax.Array, carry: Any, length: int) -> tuple[Any, Any]:
    """Runs `step` over the frames of x, in order.

    The first stretch is the remainder, so that with an even `length` the frames after an odd first one stay paired.

    Args:
      step: (carry, [B, f, H, W, C]) -> (carry, [B, g, H', W', C'] or None); the first call may take a carry of
        another structure than it returns (no caches yet). A result of the same shape as the stretch overwrites it.
      x: [B, F, H, W, C].
      carry: carry for the first call.
      length: frames of every stretch but the first.

    Returns:
      The last carry, and the results one after the other, [B, G, H', W', C'] or None.
    """
    frames = x.shape[1]
    head = min(frames, frames % length or length)
    carry, out = step(carry, x[:, :head])
    if head == frames:
        return carry, out
    count = (frames - head) // length
    of_one = jax.eval_shape(step, carry, _frames(x, head, length))[1]
    in_place = of_one is not None and (of_one.shape, of_one.dtype) == (
        (*x.shape[:1], length, *x.shape[2:]),
        x.dtype,
    )

    def one(state: tuple[Any, Any], i: jax.Array) -> tuple[tuple[Any, Any], None]:
        carry, results = state
        source = results if in_place else x
        carry, result = step(carry, _frames(source, head + i * length, length))
        if result is not None:
            start = (0, out.shape[1] + i * result.shape[1], 0, 0, 0)
            results = jax.lax.dynamic_update_slice(results, result, start)
        return (carry, results), None

    results = None
    if in_place:
        results = jax.lax.dynamic_update_slice(x, out, (0,) * 5)
    elif of_one is not None:
        # Without the barrier, the TPU compiler gives the whole clip the layout of the first stretch's convolution,
        # and copies it afterwards.
        out = jax.lax.optimization_barrier(out)
        whole = (out.shape[0], out.shape[1] + count * of_one.shape[1], *out.shape[2:])
        results = jax.lax.dynamic_update_slice(jnp.zeros(whole, out.dtype), out, (0,) * 5)
    (carry, results), _ = jax.lax.scan(one, (carry, results), jnp.arange(count))
    return carry, results


def _frames(x: jax.Array, start: int | jax.Array, length: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, start, length, axis=1)
