"""Positions of tokens: rotary angles (5B), or a table of sines and cosines added to the tokens (2B).

Everything here runs on the host in float64; tokens are ordered (frame, row, column), columns fastest. Rotary
embeddings: Su et al., "RoFormer", arXiv 2104.09864, with the head's channels divided among the three axes.
"""

import numpy as np
from einops import rearrange

from star_jax.config.cogvideox import TransformerConfig
from star_jax.errors import InputError

_THETA = 10000.0


def rotary_tables(config: TransformerConfig, size: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines that rotate the pairs of adjacent channels of a head.

    A quarter of a head's channels encode the frame, three eighths the row and three eighths the column.

    Args:
      config: sizes.
      size: (frames, rows, columns) of tokens.

    Returns:
      Two float32 arrays [frames x rows x columns, attention_head_dim], in which each angle comes twice in a row.

    Raises:
      InputError: a grid that `other_grids` does not allow.
    """
    dim = config.attention_head_dim
    parts = (dim // 4, dim // 8 * 3, dim // 8 * 3)
    angles = [
        np.outer(place, _THETA ** (-np.arange(0, part, 2) / part))
        for place, part in zip(_places(config, size), parts, strict=True)
    ]
    table = np.repeat(_on_grid(angles, size), 2, axis=-1)
    return np.cos(table).astype(np.float32), np.sin(table).astype(np.float32)


def sincos_table(config: TransformerConfig, size: tuple[int, int, int]) -> np.ndarray:
    """The table that is added to the tokens of a clip, float32 [frames x rows x columns, width].

    A quarter of the channels encode the frame, then three eighths the column and three eighths the row (the names
    in the original say the opposite), each as [sines | cosines].

    Args:
      config: sizes.
      size: (frames, rows, columns) of tokens.

    Raises:
      InputError: a grid that `other_grids` does not allow.
    """
    frames, rows, columns = _places(config, size)
    stretch, space = config.spatial_interpolation, config.width // 8 * 3
    parts = [
        _sines(frames, config.width // 4),
        _sines(rows / stretch, space),
        _sines(columns / stretch, space),
    ]
    by_frame, by_row, by_column = np.split(
        _on_grid(parts, size), np.cumsum([part.shape[1] for part in parts[:-1]]), axis=-1
    )
    return np.concatenate([by_frame, by_column, by_row], axis=-1).astype(np.float32)


def is_own_grid(config: TransformerConfig, size: tuple[int, int, int]) -> bool:
    """Whether a grid is the first frames of the network's own grid, whose positions the stored table has."""
    return size[0] <= config.grid[0] and size[1:] == config.grid[1:]


def _sines(place: np.ndarray, channels: int) -> np.ndarray:
    angles = np.outer(place, _THETA ** (-np.arange(channels // 2) / (channels / 2)))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)


def _places(config: TransformerConfig, size: tuple[int, int, int]) -> list[np.ndarray]:
    """The positions along each axis."""
    places = [np.arange(count, dtype=np.float64) for count in size]
    if config.other_grids == "exact" and not is_own_grid(config, size):
        frames, rows, columns = config.grid
        raise InputError(
            f"the network has positions for {rows}x{columns} tokens of up to {frames} latents, got "
            f"{size[1]}x{size[2]} of {size[0]}; choose tiles of that size, or other_grids='interpolated'"
        )
    if config.other_grids == "interpolated":
        places[1:] = [
            place * (own / count)
            for place, own, count in zip(places[1:], config.grid[1:], size[1:], strict=True)
        ]
    return places


def _on_grid(parts: list[np.ndarray], size: tuple[int, int, int]) -> np.ndarray:
    """Joins the tables of frames, rows and columns: three [n, c] -> [tokens, sum of c]."""
    grid = [
        np.broadcast_to(
            np.expand_dims(part, [axis for axis in range(3) if axis != i]), (*size, part.shape[1])
        )
        for i, part in enumerate(parts)
    ]
    return rearrange(np.concatenate(grid, axis=-1), "f h w c -> (f h w) c")
