"""Fits the light decoder's linear part by least squares before training: the best that one convolution can do.

The convolution maps a window of latents and low-resolution frames to the difference between the ground truth and
the enlarged frames. With inputs X (a row for each place) and targets Y, its kernel solves (X'X + r I) W = X'Y.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange

from star_jax.data.restored import RestoredRecord, RestoredSource
from star_jax.models.light_decoder.decoder import LINEAR_WINDOW, LOW_FACTOR, pack
from star_jax.ops.pixels import enlarge, to_float

_RIDGE = 1e-4  # times the number of places: keeps weights of inputs that hardly vary small
_CLIPS, _FRAMES = 160, (1, -2)  # clips and frames of each; enough for a few hundred inputs


def linear_start(source: RestoredSource, limit: int = _CLIPS) -> dict[str, jnp.ndarray]:
    """The linear part's `kernel` [k, k, in, out] and `bias` [out], float32, from the first clips of a folder."""
    squares: Any = 0.0
    products: Any = 0.0
    places = 0
    for number in range(min(limit, len(source))):
        x, y = _places(source[number], _FRAMES)
        squares, products, places = squares + x.T @ x, products + x.T @ y, places + len(x)
    ridge = _RIDGE * places * np.eye(len(squares))
    ridge[-1, -1] = 0.0  # the bias is not regularised
    weights = np.linalg.solve(squares + ridge, products).astype(np.float32)
    kernel = weights[:-1].reshape(LINEAR_WINDOW, LINEAR_WINDOW, -1, weights.shape[1])
    return {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(weights[-1])}


def _places(record: RestoredRecord, frames: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [places, k k in + 1] and targets [places, out], float64."""
    with np.load(record.path) as file:
        gt, lq, latents = (file[name][list(frames)] for name in ("gt", "lq", "latents"))
    low = to_float(jnp.asarray(lq))
    lacking = np.asarray(to_float(jnp.asarray(gt)) - enlarge(low, gt.shape[1:3]))
    seen = np.concatenate([latents.astype(np.float32), np.asarray(pack(low[None])[0])], axis=-1)
    half = LINEAR_WINDOW // 2
    padded = np.pad(seen, ((0, 0), (half, half), (half, half), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (LINEAR_WINDOW, LINEAR_WINDOW), axis=(1, 2))
    inputs = rearrange(windows, "f h w c i j -> (f h w) (i j c)").astype(np.float64)
    inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    side = 2 * LOW_FACTOR
    targets = rearrange(lacking, "f (h i) (w j) c -> (f h w) (i j c)", i=side, j=side)
    return inputs, targets.astype(np.float64)
