"""Overlapping windows over the frames of a long clip, joined by a hard cut."""

from collections.abc import Callable
from itertools import pairwise

import jax
import jax.numpy as jnp

from star_jax.errors import InputError

Windows = tuple[tuple[int, int], ...]

# The last window takes all remaining frames, up to this many window lengths, so that it is never too short.
LAST_WINDOW_STRETCH = 1.25


def make_windows(num_frames: int, max_window: int) -> Windows:
    """Frame ranges [start, stop) that cover a clip, each sharing half a window with the next.

    A clip that fits is one window. Otherwise, as in the released sampler, all windows have `max_window` frames
    except the last, which has between 3/4 and 5/4 of that.

    Raises:
      InputError: no frames, or a window of fewer than 2 frames.
    """
    if num_frames < 1:
        raise InputError(f"num_frames is {num_frames}; a clip needs at least 1")
    if max_window < 2:
        raise InputError(f"the window is {max_window} frames; choose at least 2")
    if num_frames <= max_window:
        return ((0, num_frames),)
    stride = max_window - max_window // 2
    windows, start = [], 0
    while start + LAST_WINDOW_STRETCH * max_window < num_frames:
        windows.append((start, start + max_window))
        start += stride
    return (*windows, (start, num_frames))


def fresh_windows(num_latents: int, length: int) -> Windows:
    """Ranges of latents [start, stop) for a model in which the first latent of every window stands for one frame.

    All windows have the one length that the model was made for; the last one is shifted into the clip. Each shares
    half a window with the next, but at least two latents, so that the first latent of a later window is never kept.

    Raises:
      InputError: no latents, or a window of fewer than 3 latents.
    """
    if num_latents < 1:
        raise InputError(f"num_latents is {num_latents}; a clip needs at least 1")
    if length < 3:
        raise InputError(f"the window is {length} latents; choose at least 3")
    if num_latents <= length:
        return ((0, num_latents),)
    stride = length - max(2, length // 2)
    starts = [*range(0, num_latents - length, stride), num_latents - length]
    return tuple((start, start + length) for start in starts)


def kept_frames(windows: Windows) -> Windows:
    """The part [start, stop) of the clip that each window contributes, cut at the middle of the overlaps.

    If an overlap is odd, the later window gets the larger part.
    """
    cuts = [start + (stop - start) // 2 for (_, stop), (start, _) in pairwise(windows)]
    return tuple(zip([windows[0][0], *cuts], [*cuts, windows[-1][1]], strict=True))


def map_windows(fn: Callable[..., jax.Array], windows: Windows, *arrays: jax.Array) -> jax.Array:
    """Applies `fn` to every window of arrays [B, F, ...] and joins the kept frames to [B, F, ...].

    Windows run one after another. Those of equal length run in one `lax.map`, so that `fn` is traced and compiled
    once for each of at most two lengths.
    """
    if len(windows) == 1:
        return fn(*arrays)
    length = windows[0][1] - windows[0][0]
    equal = [window for window in windows if window[1] - window[0] == length]

    def at(start: jax.Array) -> jax.Array:
        return fn(*(jax.lax.dynamic_slice_in_dim(array, start, length, axis=1) for array in arrays))

    outputs = list(jax.lax.map(at, jnp.array([start for start, _ in equal])))
    outputs += [fn(*(array[:, start:stop] for array in arrays)) for start, stop in windows[len(equal) :]]
    return jnp.concatenate(_pieces(outputs, windows), axis=1)


def map_fresh_windows(
    fn: Callable[..., jax.Array], windows: Windows, x: jax.Array, hint: jax.Array
) -> jax.Array:
    """`map_windows` for windows from `fresh_windows`, each of which is a separate clip with its own first latent.

    Args:
      fn: (x and hint of one window) -> array of the shape of x.
      windows: the windows.
      x: the clip's latents and, after them, the first latent of every later window, [B, F + windows - 1, ...].
      hint: the windows' latents, one window after the other, [B, sum of lengths, ...].

    Returns:
      Array of the shape of x.
    """
    if len(windows) == 1:
        return fn(x, hint)
    length, num_latents = windows[0][1] - windows[0][0], windows[-1][1]
    firsts = [0, *range(num_latents, num_latents + len(windows) - 1)]

    def at(place: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        start, first, of_hint = place
        parts = (
            jax.lax.dynamic_slice_in_dim(x, first, 1, axis=1),
            jax.lax.dynamic_slice_in_dim(x, start + 1, length - 1, axis=1),
        )
        return fn(jnp.concatenate(parts, axis=1), jax.lax.dynamic_slice_in_dim(hint, of_hint, length, axis=1))

    starts = jnp.array([start for start, _ in windows])
    outputs = jax.lax.map(at, (starts, jnp.array(firsts), length * jnp.arange(len(windows))))
    return _joined(list(outputs), windows)


def join_fresh_windows(hint: jax.Array, windows: Windows) -> jax.Array:
    """Joins the latents of consecutive windows to the clip's latents, followed by the later windows' first latents.

    [B, sum of lengths, ...] -> [B, F + windows - 1, ...]; see `map_fresh_windows`.
    """
    if len(windows) == 1:
        return hint
    return _joined(jnp.split(hint, len(windows), axis=1), windows)


def _joined(outputs: list[jax.Array], windows: Windows) -> jax.Array:
    pieces = _pieces(outputs, windows)
    return jnp.concatenate([*pieces, *(output[:, :1] for output in outputs[1:])], axis=1)


def _pieces(outputs: list[jax.Array], windows: Windows) -> list[jax.Array]:
    return [
        output[:, keep[0] - window[0] : keep[1] - window[0]]
        for output, window, keep in zip(outputs, windows, kept_frames(windows), strict=True)
    ]
