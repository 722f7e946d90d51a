"""Attention along the frames of each pixel, without moving the frames next to each other (Pallas, for GPUs).

A program handles one head of one pixel. Its queries, keys and values of all frames, which lie a frame apart in
memory, fit in registers together with the F x F logits.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.experimental import pallas as pl
from jax.typing import DTypeLike

from star_jax.ops.platform import target_platform
from star_jax.ops.variants import variant_of
from star_jax.parallel.activations import on_several_devices

LONGEST = 64  # frames
_SMALLEST_TILE = 16  # smallest side of a matrix product


@jax.custom_vjp
def frames_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Full attention along axis 1, scaled by 1/sqrt(head_dim), softmax in float32.

    Args:
      q, k, v: [batch, frames, pixels, heads, head_dim]; up to LONGEST frames; head_dim a power of 2 from 16 to 128.

    Returns:
      [batch, frames, pixels, heads, head_dim] in q's dtype.
    """
    return _call(_forward_kernel, 1, q, k, v)[0]


def attends_frames_first(frames: int, head_dim: int, dtype: DTypeLike | None) -> bool:
    """Whether a temporal transformer uses this kernel: it is the device's variant and takes these sizes."""
    chosen = variant_of("frames_attention") == "frames_first" and not on_several_devices()
    return chosen and dtype in (jnp.float16, jnp.bfloat16) and takes(frames, head_dim)


def takes(frames: int, head_dim: int) -> bool:
    """Whether the kernel takes this many frames and heads of this size."""
    is_power = head_dim & (head_dim - 1) == 0
    return frames <= LONGEST and is_power and _SMALLEST_TILE <= head_dim <= 128


def _forward(q: jax.Array, k: jax.Array, v: jax.Array):
    return frames_attention(q, k, v), (q, k, v)


def _backward(kept: tuple[jax.Array, ...], gradient: jax.Array):
    return tuple(_call(_backward_kernel, 3, *kept, gradient))


frames_attention.defvjp(_forward, _backward)


def _call(kernel, num_outputs: int, *inputs: jax.Array) -> Sequence[jax.Array]:
    from jax.experimental.pallas import triton

    b, frames, pixels, heads, head_dim = inputs[0].shape
    tile = max(_SMALLEST_TILE, pl.next_power_of_2(frames))
    # Heads of one pixel lie side by side, so they belong in the grid's first axis, the only one without a limit.
    block = pl.BlockSpec((None, tile, None, head_dim), lambda i, j: (j, 0, i, 0))
    inputs = tuple(rearrange(x, "b f p n d -> b f (p n) d") for x in inputs)
    out = jax.ShapeDtypeStruct(inputs[0].shape, inputs[0].dtype)
    outputs = pl.pallas_call(
        functools.partial(kernel, frames=frames),
        grid=(pixels * heads, b),
        in_specs=[block] * len(inputs),
        out_specs=[block] * num_outputs,
        out_shape=[out] * num_outputs,
        compiler_params=triton.CompilerParams(num_warps=1 if tile <= 32 else 4, num_stages=1),
        interpret=target_platform() == "cpu",
        name=f"frames_attention{kernel.__name__.removesuffix('_kernel')}",
    )(*inputs)
    return [rearrange(x, "b f (p n) d -> b f p n d", n=heads) for x in outputs]


def _load(ref, frames: int) -> jax.Array:
    from jax.experimental.pallas import triton

    inside = jnp.arange(ref.shape[0]) < frames
    return triton.load(ref, mask=jnp.broadcast_to(inside[:, None], ref.shape), other=0.0)


def _store(ref, x: jax.Array, frames: int) -> None:
    from jax.experimental.pallas import triton

    inside = jnp.arange(ref.shape[0]) < frames
    triton.store(ref, x.astype(ref.dtype), mask=jnp.broadcast_to(inside[:, None], ref.shape))


def _weights(q: jax.Array, k: jax.Array, frames: int) -> jax.Array:
    """Softmax of the logits, [frames, frames] in float32; keys of the padding have no weight."""
    logits = _dot(q, k.T) * q.shape[-1] ** -0.5
    logits = jnp.where(jnp.arange(len(k))[None] < frames, logits, -jnp.inf)
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


def _forward_kernel(q_ref, k_ref, v_ref, out_ref, *, frames: int):
    q, k, v = (_load(ref, frames) for ref in (q_ref, k_ref, v_ref))
    _store(out_ref, _dot(_weights(q, k, frames).astype(v.dtype), v), frames)


def _backward_kernel(q_ref, k_ref, v_ref, gradient_ref, dq_ref, dk_ref, dv_ref, *, frames: int):
    q, k, v, gradient = (_load(ref, frames) for ref in (q_ref, k_ref, v_ref, gradient_ref))
    weights = _weights(q, k, frames)
    of_weights = _dot(gradient, v.T)
    of_logits = weights * (of_weights - (of_weights * weights).sum(-1, keepdims=True))
    of_logits = (of_logits * q.shape[-1] ** -0.5).astype(q.dtype)
    _store(dq_ref, _dot(of_logits, k), frames)
    _store(dk_ref, _dot(of_logits.T, q), frames)
    _store(dv_ref, _dot(weights.astype(q.dtype).T, gradient), frames)
