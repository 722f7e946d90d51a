"""Runs the decoder's layers in bands of rows: the same numbers as on whole frames, with two copies of activations.

A norm takes its statistics over the whole group, so each layer measures what it passes to the next norm; between
norms a row depends only on itself and the rows above and below. The upsampling layer is run again wherever its rows
are read: at 720x1280 its result would be the largest array of all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import repeat

from star_jax.models.cogvideox.vae_layers import (
    Cache,
    CausalConv3d,
    Guide,
    ResnetBlock3D,
    SpatialNorm3D,
    Statistics,
    Upsample3D,
)


class Rows(NamedTuple):
    """Activations that are read row by row.

    Attributes:
      x: [B, F, H, W, C].
      up: upsampling layer that is applied as the rows are read; None for no upsampling.
      statistics: statistics of the rows as read.
    """

    x: jax.Array
    up: Upsample3D | None
    statistics: Statistics

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the activations as read."""
        return self.x.shape if self.up is None else jax.eval_shape(self.up, self.x).shape

    def band(self, start: jax.Array, rows: int) -> jax.Array:
        """The rows from `start - 1` to `start + rows`; rows outside the frame have arbitrary values."""
        if self.up is None:
            return _with_neighbours(self.x, start, rows)
        start, rows = start // 2, rows // 2
        below = _inside(_with_neighbours(self.x, start, rows), start, self.x.shape[2])
        return self.up(below)[:, :, 1:-1]


@dataclass(frozen=True)
class InBands:
    """Runs the decoder's layers on a group of latents.

    Attributes:
      latents: [B, T, h, w, C], which the norms look at.
      groups: number of groups of channels in the norms.
      pixels: pixels that are worked on together, over all frames.
    """

    latents: jax.Array
    groups: int
    pixels: int

    def measured(self, x: jax.Array) -> Rows:
        """Wraps activations whose statistics are taken at once."""
        return Rows(x, None, Statistics.of(x, self.groups))

    def enlarged(self, rows: Rows, up: Upsample3D) -> Rows:
        """Wraps activations that are read through an upsampling layer."""
        found = Rows(rows.x, up, rows.statistics)

        def measure(start, count, statistics):
            return statistics.merge(Statistics.of(found.band(start, count)[:, :, 1:-1], self.groups))

        empty = Statistics.empty(len(rows.x), self.groups)
        return found._replace(statistics=self._over_bands(measure, found.shape, empty))

    def block(self, block: ResnetBlock3D, rows: Rows, cache: Cache) -> tuple[Rows, Cache]:
        """Runs a residual block. The output overwrites the input, or the shortcut's output, in memory."""
        shape, is_kept = rows.shape, rows.up is None and block.conv_shortcut is None
        first, second = cache or (None, None)

        def first_half(start, count, into):
            hidden, new, shortcut, statistics = into
            part = rows.band(start, count)
            out, kept = self._convolve(
                block.norm1, block.conv1, part, rows.statistics, first, start, shape[2]
            )
            if not is_kept:
                part = part[:, :, 1:-1]
                part = part if block.conv_shortcut is None else block.conv_shortcut(part)
                shortcut = _put(shortcut, part, start)
            statistics = statistics.merge(Statistics.of(out, self.groups))
            return _put(hidden, out, start), _put(new, kept, start), shortcut, statistics

        empty = Statistics.empty(shape[0], self.groups)
        whole = (*shape[:-1], block.conv1.conv.out_features)
        x = rows.x if is_kept else jnp.zeros(whole, rows.x.dtype)
        start = (jnp.zeros(whole, x.dtype), jnp.zeros(_two_frames(shape), x.dtype), x, empty)
        hidden, first, x, of_hidden = self._over_bands(first_half, shape, start)

        def second_half(start, count, into):
            x, new, statistics = into
            part = _with_neighbours(hidden, start, count)
            out, kept = self._convolve(block.norm2, block.conv2, part, of_hidden, second, start, shape[2])
            out += jax.lax.dynamic_slice_in_dim(x, start, count, axis=2)
            statistics = statistics.merge(Statistics.of(out, self.groups))
            return _put(x, out, start), _put(new, kept, start), statistics

        again = (x, jnp.zeros(_two_frames(whole), x.dtype), empty)
        x, second, statistics = self._over_bands(second_half, whole, again)
        return Rows(x, None, statistics), (first, second)

    def last(
        self, norm: SpatialNorm3D, conv: CausalConv3d, rows: Rows, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """Runs the last norm and convolution."""
        shape = rows.shape

        def apply(start, count, into):
            frames, new = into
            part = rows.band(start, count)
            out, kept = self._convolve(norm, conv, part, rows.statistics, cache, start, shape[2])
            return _put(frames, out, start), _put(new, kept, start)

        whole, dtype = (*shape[:-1], conv.conv.out_features), rows.x.dtype
        return self._over_bands(apply, shape, (jnp.zeros(whole, dtype), jnp.zeros(_two_frames(shape), dtype)))

    def _convolve(
        self,
        norm: SpatialNorm3D,
        conv: CausalConv3d,
        part: jax.Array,
        statistics: Statistics,
        cache: Cache,
        start: jax.Array,
        height: int,
    ) -> tuple[jax.Array, jax.Array]:
        """conv(silu(norm(.))) of a band with its neighbours, and the last two frames of the convolution's input."""
        guide = Guide(self.latents, statistics, height, start - 1)
        part = _inside(jax.nn.silu(norm(part, guide)), start, height)
        if cache is not None:
            cache = _inside(_with_neighbours(cache, start, part.shape[2] - 2), start, height)
        out, kept = conv(part, cache)
        return out[:, :, 1:-1], kept[:, :, 1:-1]

    def _over_bands(self, fn: Callable[..., Any], shape: tuple[int, ...], into: Any) -> Any:
        """Folds fn(first row, rows, into) -> into over all bands from top to bottom."""
        _, frames, height, width, _ = shape
        rows = band_rows(height, self.pixels // (frames * width))

        def one(into, i):
            return fn(i * rows, rows, into), None

        return jax.lax.scan(one, into, jnp.arange(height // rows))[0]


def band_rows(height: int, most: int) -> int:
    """Rows per band: a divisor of the height, at most `most` where possible, and even for an even height."""
    step = 2 - height % 2
    return max(
        rows for rows in range(step, height + 1, step) if height % rows == 0 and rows <= max(most, step)
    )


def _with_neighbours(x: jax.Array, start: jax.Array, rows: int) -> jax.Array:
    """The rows from `start - 1` to `start + rows`; beyond the border the border row is repeated."""
    cut = partial(jax.lax.dynamic_slice_in_dim, x, axis=2)
    below = jnp.minimum(start + rows, x.shape[2] - 1)
    return jnp.concatenate([cut(jnp.maximum(start - 1, 0), 1), cut(start, rows), cut(below, 1)], axis=2)


def _inside(x: jax.Array, start: jax.Array, height: int) -> jax.Array:
    """A band from `_with_neighbours`, with zeros in the rows outside the frame."""
    row = start - 1 + jnp.arange(x.shape[2])
    return jnp.where(repeat((row >= 0) & (row < height), "h -> h 1 1"), x, 0)


def _put(x: jax.Array, band: jax.Array, start: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(x, band, start, axis=2)


def _two_frames(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], 2, *shape[2:])
