"""How activations are sharded over the devices of a mesh, for programs traced under `jax.set_mesh`.

Clips are split over the axes `data` and `fsdp`, the frames of a clip over `context`. Layers that work frame by
frame (convolutions, attention within a frame) then need no communication; temporal convolutions exchange one frame
with each neighbour, and temporal attention switches to pixels split over `context` and back (two all-to-alls).
Without a mesh, or on one device, the `split_*` functions return their input.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

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


class FrameShares(NamedTuple):
    """Equal shares of the frames of clips.

    Attributes:
      clips: how [B, F, ...] is split; None if it is not, or unequally.
      frames: how [B F, ...] is split, with the frames in the order of the devices.
      devices: number of devices that split the frames of a clip.
    """

    clips: PartitionSpec | None
    frames: PartitionSpec | None
    devices: int


NO_SHARES = FrameShares(None, None, 1)


def frame_shares(batch: int, frames: int) -> FrameShares:
    """The shares of `batch` clips of so many frames that `split_frames` makes."""
    axes, context = _axes()
    devices = _shards(context)
    if not on_several_devices() or batch % _shards(axes) or frames % devices:
        return NO_SHARES
    return FrameShares(PartitionSpec(axes, context), PartitionSpec((*axes, *context)), devices)


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


def map_neighbours(
    run: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, whole: jax.Array, *, columns: bool
) -> jax.Array:
    """Runs a function of three neighbouring frames on each device's share of a video.

    Args:
      run: (x [b, f + 2, h, w, C], whole) -> [b, f, h, w, D]; frames beyond the clip's ends are zeros.
      x: [B, F, H, W, C].
      whole: weights, of which every device gets all.
      columns: whether `context` splits the columns (in the VAE), so that nothing is exchanged. Otherwise it splits
        the frames, and each device receives one frame from either neighbour.

    Returns:
      [B, F, H, W, D].
    """
    position = 3 if columns else 1
    split, padded = _shares_of(x, position)

    def of_share(share: jax.Array, whole: jax.Array) -> jax.Array:
        return run(_with_neighbours(share, columns), whole)

    out = jax.shard_map(of_share, in_specs=(split, PartitionSpec()), out_specs=split, check_vma=False)(
        padded, whole
    )
    return jax.lax.slice_in_dim(out, 0, x.shape[position], axis=position)


def sum_neighbours(
    run: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, y: jax.Array, *, columns: bool
) -> jax.Array:
    """The sum over all devices of run(x [b, f + 2, h, w, C], y [b, f, h, w, D]); see `map_neighbours`."""
    position = 3 if columns else 1
    split, padded = _shares_of(x, position)
    clips = split[0] or ()  # a clip that every device has is counted once

    def of_share(x: jax.Array, y: jax.Array) -> jax.Array:
        return jax.lax.psum(run(_with_neighbours(x, columns), y), (*clips, *_axes()[1]))

    run_all = jax.shard_map(of_share, in_specs=(split, split), out_specs=PartitionSpec(), check_vma=False)
    return run_all(padded, _shares_of(y, position)[1])


def _shares_of(x: jax.Array, position: int) -> tuple[PartitionSpec, jax.Array]:
    """How x [B, ...] is split over the batch axes and, along one axis, over `context`, for which it is padded."""
    axes, context = _axes()
    spec: list[Any] = [None] * x.ndim
    spec[0] = axes if x.shape[0] % _shards(axes) == 0 else None
    spec[position] = context or None
    return PartitionSpec(*spec), _pad(x, position, _shards(context))


def _with_neighbours(share: jax.Array, columns: bool) -> jax.Array:
    """A device's share [b, f, h, w, C] with the frames before and after it; zeros at the clip's ends."""
    shares = _shards(_axes()[1])
    border = jnp.zeros_like(share[:, :1])
    before, after = border, border
    if not columns and shares > 1:  # the first and the last device get zeros
        onwards = [(i, i + 1) for i in range(shares - 1)]
        before = jax.lax.ppermute(share[:, -1:], CONTEXT_AXIS, onwards)
        after = jax.lax.ppermute(share[:, :1], CONTEXT_AXIS, [(j, i) for i, j in onwards])
    return jnp.concatenate([before, share, after], axis=1)


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
