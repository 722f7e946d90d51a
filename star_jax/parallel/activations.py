"""How activations are sharded over the devices of a mesh, for programs traced under `jax.set_mesh`.

Clips are split over the axes `data` and `fsdp`, the frames of a clip over `context`. Layers that work frame by
frame (convolutions, attention within a frame) then need no communication; temporal convolutions exchange one frame
with each neighbour, and temporal attention switches to pixels split over `context` and back (two all-to-alls).
Without a mesh, or on one device, the `split_*` functions return their input.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

BATCH_AXES = ("data", "fsdp")
CONTEXT_AXIS = "context"

AttentionFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def on_several_devices() -> bool:
    """Whether the program is traced for a mesh that splits activations."""
    axes, context = _axes()
    return _shards((*axes, *context)) > 1


def split_frames(x: jax.Array) -> jax.Array:
    """Splits clips over the batch axes and frames over `context`: [B, F, ...] -> same."""
    return _split_two(x, 1)


def split_pixels(x: jax.Array) -> jax.Array:
    """Splits clips over the batch axes and pixels over `context`: [B, pixels, F, C] -> same."""
    return _split_two(x, 1)


def split_columns(x: jax.Array) -> jax.Array:
    """Splits clips over the batch axes and columns over `context`: [B, F, H, W, C] -> same.

    This is for the VAE, which works on a few large frames at a time.
    """
    return _split_two(x, 3)


def attend_locally(
    attend: AttentionFn, q: jax.Array, k: jax.Array, v: jax.Array, *, split_queries: bool
) -> jax.Array:
    """Runs an attention kernel that the compiler cannot partition on each device's share of the work.

    Args:
      attend: (q, k, v) -> out.
      q, k, v: [batch, length, heads, head_dim].
      split_queries: whether `context` splits the queries (attention of a whole clip's tokens to its text, and
        attention in the VAE) rather than the batch (attention within each frame, or along each pixel's frames).

    Returns:
      [batch, query_length, heads, head_dim].
    """
    if not on_several_devices():
        return attend(q, k, v)
    axes, context = _axes()
    on_batch, on_queries = (axes, context) if split_queries else ((*axes, *context), ())
    batch, length = q.shape[:2]
    q = _pad(_pad(q, 0, _shards(on_batch)), 1, _shards(on_queries))
    k, v = (_pad(x, 0, _shards(on_batch)) for x in (k, v))
    of_queries, of_keys = PartitionSpec(on_batch, on_queries or None), PartitionSpec(on_batch)
    run = jax.shard_map(
        attend, in_specs=(of_queries, of_keys, of_keys), out_specs=of_queries, check_vma=False
    )
    return run(q, k, v)[:batch, :length]


def convolve_locally(
    convolve: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, kernel: jax.Array, *, columns: bool
) -> jax.Array:
    """Runs a 3-tap convolution along frames on each device's share of a video.

    Args:
      convolve: (x [b, f + 2, h, w, C], kernel) -> [b, f, h, w, C], without padding.
      x: [B, F, H, W, C].
      kernel: the weights, replicated on every device.
      columns: whether `context` splits the columns (in the VAE), so that nothing is exchanged. Otherwise it splits
        the frames, and each device receives one frame from either neighbour.

    Returns:
      [B, F, H, W, C].
    """
    axes, context = _axes()
    position = 3 if columns else 1
    length, shares = x.shape[position], _shards(context)
    padded = _pad(x, position, shares)
    spec: list[Any] = [None] * x.ndim
    spec[0] = axes if x.shape[0] % _shards(axes) == 0 else None
    spec[position] = context or None

    def run(share: jax.Array, kernel: jax.Array) -> jax.Array:
        border = jnp.zeros_like(share[:, :1])
        before, after = border, border
        if not columns and shares > 1:  # the first and the last device get zeros
            onwards = [(i, i + 1) for i in range(shares - 1)]
            before = jax.lax.ppermute(share[:, -1:], CONTEXT_AXIS, onwards)
            after = jax.lax.ppermute(share[:, :1], CONTEXT_AXIS, [(j, i) for i, j in onwards])
        return convolve(jnp.concatenate([before, share, after], axis=1), kernel)

    split = PartitionSpec(*spec)
    out = jax.shard_map(run, in_specs=(split, PartitionSpec()), out_specs=split, check_vma=False)(
        padded, kernel
    )
    return jax.lax.slice_in_dim(out, 0, length, axis=position)


def transform_locally(transform: Callable[[jax.Array], jax.Array], planes: jax.Array) -> jax.Array:
    """Runs a transform of whole planes, such as Fourier's, on each device's share of the planes.

    The compiler cannot partition a Fourier transform: it would gather the whole batch on every device.

    Args:
      transform: [b, n, H, W] -> [b, n, ...].
      planes: [B, N, H, W]; clips are split over the batch axes, the planes of a clip over `context`.

    Returns:
      [B, N, ...].
    """
    axes, context = _axes()
    if not on_several_devices() or planes.shape[0] % _shards(axes):
        return transform(planes)
    split = PartitionSpec(axes, context or None)
    run = jax.shard_map(transform, in_specs=split, out_specs=split, check_vma=False)
    return run(_pad(planes, 1, _shards(context)))[:, : planes.shape[1]]


def _axes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The axes of the current mesh that split a batch, and those that split a clip; none without a mesh."""
    names = jax.sharding.get_abstract_mesh().axis_names
    return tuple(a for a in BATCH_AXES if a in names), tuple(a for a in (CONTEXT_AXIS,) if a in names)


def _shards(axes: tuple[str, ...]) -> int:
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in axes)


def _split_two(x: jax.Array, position: int) -> jax.Array:
    if not on_several_devices():
        return x
    axes, context = _axes()
    spec: list[Any] = [None] * x.ndim
    spec[0] = axes if x.shape[0] % _shards(axes) == 0 else None  # a single clip (the VAE of inference)
    spec[position] = context
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def _pad(x: jax.Array, axis: int, multiple: int) -> jax.Array:
    missing = -x.shape[axis] % multiple
    if not missing:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, missing)
    return jnp.pad(x, widths)
