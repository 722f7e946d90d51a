"""Overlapping tiles over the height and width of large frames, joined by Gaussian weights.

This follows Jiménez, "Mixture of Diffusers for scene composition and high resolution image generation" (arXiv
2302.02412): the weight of a tile is largest in its middle and zero at its border, so that no border is visible.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from star_jax.diffusion.guidance import VelocityFn
from star_jax.errors import InputError

OVERLAP = 0.25  # smallest fraction of a tile that the next tile also covers
# Deviation of a tile's weights, in tiles: with less, one tile would change to the next within a few pixels.
_DEVIATION = 0.2


@dataclass(frozen=True)
class Tiles:
    """A grid of equal tiles.

    Attributes:
      size: (height, width) of every tile, in latents.
      full: (height, width) of the frame.
      rows: first latent row of each row of tiles.
      columns: first latent column of each column of tiles.
    """

    size: tuple[int, int]
    full: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)


def make_tiles(full: tuple[int, int], size: tuple[int, int], alignment: int) -> Tiles:
    """The smallest number of tiles that cover a frame, each sharing at least a quarter with the next.

    Tiles of the smallest size may share less, because they start at multiples of `alignment`.

    Args:
      full: (height, width) of the latents.
      size: (height, width) of a tile, with the same remainders modulo `alignment` as `full`; sides longer than the
        frame's are shortened to it.
      alignment: tiles start at multiples of this number of latents, which is one pixel of the network's coarsest
        level; see `SizeRule.alignment`.

    Raises:
      InputError: the network does not take tiles of this size.
    """
    height, width = (min(of_tile, of_full) for of_tile, of_full in zip(size, full, strict=True))
    if (full[0] - height) % alignment or (full[1] - width) % alignment or min(height, width) < alignment:
        raise InputError(
            f"tiles of {height}x{width} latents do not fit frames of {full[0]}x{full[1]}; each side must be at "
            f"least {alignment} and differ from the frame's by a multiple of {alignment}"
        )
    starts = (_starts(*sides, alignment) for sides in zip(full, (height, width), strict=True))
    return Tiles((height, width), full, *starts)


def map_tiles(
    fn: Callable[..., jax.Array], tiles: Tiles, *arrays: jax.Array, in_factor: int = 1, out_factor: int = 1
) -> Float[Array, "B F H W C"]:
    """`scan_tiles` for a function without state: arrays of one tile -> [B, F, h, w, C']."""

    def without_state(state: None, *arrays: jax.Array) -> tuple[jax.Array, None]:
        del state
        return fn(*arrays), None

    return scan_tiles(without_state, tiles, None, *arrays, in_factor=in_factor, out_factor=out_factor)[0]


def scan_tiles(
    fn: Callable[..., tuple[jax.Array, Any]],
    tiles: Tiles,
    state: Any,
    *arrays: jax.Array,
    in_factor: int = 1,
    out_factor: int = 1,
) -> tuple[jax.Array, Any]:
    """Applies `fn` to every tile of arrays [B, F, H, W, C], one after the other, and joins the results.

    With a single tile the result is that of `fn`. With several it is their weighted mean in float32, and `fn` is
    traced once.

    Args:
      fn: (state of one tile, arrays of one tile) -> ([B, F', h, w, C'], state of the tile for the next call).
      tiles: tiles, in latents.
      state: states that the call for the previous chunk returned; None for the first chunk.
      arrays: whole frames.
      in_factor: pixels of the arrays per latent, along each side.
      out_factor: pixels of the result per latent.

    Returns:
      The joined results, and the states of all tiles.
    """
    if len(tiles) == 1:
        return fn(state, *arrays)
    (height, width), (full_height, full_width) = tiles.size, tiles.full
    by_row = jnp.asarray(_weights(tiles.rows, height, full_height, out_factor))
    by_column = jnp.asarray(_weights(tiles.columns, width, full_width, out_factor))

    def cut(array: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
        start = (0, 0, row * in_factor, column * in_factor, 0)
        shape = (*array.shape[:2], height * in_factor, width * in_factor, array.shape[-1])
        return jax.lax.dynamic_slice(array, start, shape)

    def add(canvas: jax.Array, index_and_state: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        index, state = index_and_state
        i, j = index // len(tiles.columns), index % len(tiles.columns)
        row, column = jnp.asarray(tiles.rows)[i], jnp.asarray(tiles.columns)[j]
        out, state = fn(state, *(cut(array, row, column) for array in arrays))
        out = out.astype(jnp.float32)
        out *= by_row[i][:, None, None] * by_column[j][:, None]
        start = (0, 0, row * out_factor, column * out_factor, 0)
        before = jax.lax.dynamic_slice(canvas, start, out.shape)
        return jax.lax.dynamic_update_slice(canvas, before + out, start), state

    first = [cut(array, jnp.int32(0), jnp.int32(0)) for array in arrays]
    like, _ = jax.eval_shape(fn, jax.tree.map(lambda x: x[0], state), *first)
    shape = (*like.shape[:2], full_height * out_factor, full_width * out_factor, like.shape[-1])
    return jax.lax.scan(add, jnp.zeros(shape, jnp.float32), (jnp.arange(len(tiles)), state))


@dataclass(frozen=True)
class TiledVelocity:
    """A network that sees one tile at a time, while guidance and the solver see whole frames.

    It is frozen and compared by value, so that a jitted sampler reuses the program of an equal one.

    Attributes:
      velocity_fn: the network.
      tiles: tiles of the latents.
      batched: whether the network runs on the whole batch (the branches of guidance) at once, or on one sample
        after the other.
    """

    velocity_fn: VelocityFn
    tiles: Tiles
    batched: bool = True

    @property
    def takes_branches(self) -> bool:
        """Whether the branches of guidance share their common inputs; see `guided_velocity`."""
        return self.batched and getattr(self.velocity_fn, "takes_branches", False)

    def __call__(
        self,
        params: object,
        x: Float[Array, "B F H W C"],
        timesteps: Int[Array, " B"],
        context: Any,
        hint: Float[Array, "B F H W ..."],
    ) -> Float[Array, "N F H W C"]:
        """The velocity of x [B, F, H, W, C]; see `VelocityFn`."""

        def on_tile(x: jax.Array, hint: jax.Array) -> jax.Array:
            if self.batched:
                return self.velocity_fn(params, x, timesteps, context, hint)
            batch = jax.tree.map(lambda array: array[:, None], (x, timesteps, context, hint))
            return jax.lax.map(lambda one: self.velocity_fn(params, *one), batch)[:, 0]

        return map_tiles(on_tile, self.tiles, x, hint)


def _starts(full: int, length: int, alignment: int) -> tuple[int, ...]:
    """Evenly spaced multiples of `alignment` from 0 to full - length."""
    if full == length:
        return (0,)
    stride = max(alignment, math.floor((1 - OVERLAP) * length / alignment) * alignment)
    steps = math.ceil((full - length) / stride)
    return tuple(round((full - length) * i / steps / alignment) * alignment for i in range(steps + 1))


def _weights(starts: tuple[int, ...], length: int, full: int, factor: int) -> np.ndarray:
    """Weight of each tile at each of its pixels along one side, float32 [tiles, length x factor]; sums to 1."""
    size = length * factor
    place = (np.arange(size) + 0.5) / size - 0.5
    bell = np.exp(-0.5 * (place / _DEVIATION) ** 2) - np.exp(-0.5 * (0.5 / _DEVIATION) ** 2)
    total = np.zeros(full * factor)
    for start in starts:
        total[start * factor : start * factor + size] += bell
    return np.stack([bell / total[start * factor :][:size] for start in starts]).astype(np.float32)
