"""Overlapping windows over the frames of a long clip, joined by a hard cut."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from star_jax.errors import InputError

Windows = tuple[tuple[int, int], ...]

# The last window takes what is left up to this many window lengths, so that none is much too short.
LAST_WINDOW_STRETCH = 1.25


def make_windows(num_frames: int, max_window: int) -> Windows:
    """Frame ranges [start, stop) that cover a clip, each sharing half a window with the next.

    A clip that fits is one window. Otherwise all windows have `max_window` frames but the last, which has
    between 3/4 and 5/4 of that: the released sampler's windows.

    Raises:
      InputError: no frames, or a window of fewer than 2.
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


def kept_frames(windows: Windows) -> Windows:
    """The part [start, stop) of the clip that each window decides, cut at the middle of the overlaps.

    All overlaps are as long as the first one; of an odd one the later window gets the larger part.
    """
    if len(windows) == 1:
        return windows
    overlap = windows[0][1] - windows[1][0]
    cuts = [start + overlap // 2 for start, _ in windows[1:]]
    return tuple(zip([windows[0][0], *cuts], [*cuts, windows[-1][1]], strict=True))


def map_windows(fn: Callable[..., jax.Array], windows: Windows, *arrays: jax.Array) -> jax.Array:
    """Applies `fn` to every window of arrays [B, F, ...] and joins the kept frames to [B, F, ...].

    Windows run one after another; those of equal length in one `lax.map`, so that `fn` is traced and compiled
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
    pieces = [
        output[:, keep[0] - window[0] : keep[1] - window[0]]
        for output, window, keep in zip(outputs, windows, kept_frames(windows), strict=True)
    ]
    return jnp.concatenate(pieces, axis=1)
