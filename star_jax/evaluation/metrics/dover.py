"""DOVER (Wu et al. 2023): quality of a video without ground truth, from a technical and an aesthetic view.

The technical view is a mosaic of 7x7 fragments at full resolution, from three runs of 32 frames. The aesthetic view
is the whole picture at 224x224, from 32 frames spread over the clip. A network scores each view. Both scores are
normalised by their mean and deviation over the authors' videos, weighted, added, and mapped to 0..1.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.evaluation.metrics.metric import Metric, Networks
from star_jax.evaluation.networks.convnext3d import convnext_features
from star_jax.evaluation.networks.layers import Params, linear
from star_jax.evaluation.networks.video_swin import FRAGMENTS, swin_features

SIDE = 224
_FRAGMENT = 32
_FRAMES = 32  # frames of a run, and of the aesthetic view
_RUNS = 3
_INTERVAL = 2
_SEED = 0
_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
_SCALE = np.array([58.395, 57.12, 57.375], np.float32)


class Branch(NamedTuple):
    """Normalisation of a branch's mean score, and its weight in the sum."""

    mean: float
    deviation: float
    share: float


TECHNICAL = Branch(0.1107, 0.07355, 0.6104)
AESTHETIC = Branch(-0.08285, 0.03774, 0.3896)


def fused(technical: float, aesthetic: float) -> float:
    """The published score, between 0 and 1, from the mean scores of both branches."""
    scores = ((technical, TECHNICAL), (aesthetic, AESTHETIC))
    total = sum((score - branch.mean) / branch.deviation * branch.share for score, branch in scores)
    return float(1 / (1 + np.exp(-total)))


@functools.partial(jax.jit, static_argnums=0)
def branch_score(branch: str, params: Params, view: jax.Array) -> jax.Array:
    """The mean score of a view.

    Args:
      branch: "technical" or "aesthetic".
      params: weights of network `dover`.
      view: [B, T, 224, 224, 3], RGB between 0 and 255.

    Returns:
      [B].
    """
    x = (view.astype(jnp.float32) - _MEAN) / _SCALE
    features = (swin_features if branch == "technical" else convnext_features)(params, branch, x)
    hidden = jax.nn.gelu(linear(params, f"{branch}_head/hidden", features), approximate=False)
    return jnp.mean(linear(params, f"{branch}_head/last", hidden), axis=(1, 2, 3, 4))


def sampled_frames(num_frames: int, segments: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Frame numbers of runs of every second frame, one with a random start within each segment of the clip.

    Args:
      num_frames: number of frames of the clip; a run that goes beyond its end continues at frame 0.
      segments: number of equal segments of the clip.
      length: number of frames of each run.
      rng: draws the starts.

    Returns:
      int [segments, length].
    """
    segment = num_frames // segments
    latest = segment - length * _INTERVAL
    starts = rng.integers(0, latest, segments) if latest > 0 else np.zeros(segments, int)
    starts = starts + segment * np.arange(segments)
    return (starts[:, None] + _INTERVAL * np.arange(length)) % num_frames


def fragment_corners(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """The top-left corner (y, x) of each fragment of a mosaic, drawn at random within its cell: int [7, 7, 2]."""

    def corners(size: int) -> np.ndarray:
        cell = size // FRAGMENTS
        cells = np.minimum(cell * np.arange(FRAGMENTS), size - _FRAGMENT)
        room = cell - _FRAGMENT
        return cells + (rng.integers(0, room, (FRAGMENTS, FRAGMENTS)) if room > 0 else 0)

    # The last axis runs along a row of cells, so the rows' corners are transposed.
    return np.stack(np.broadcast_arrays(np.atleast_2d(corners(height)).T, corners(width)), axis=-1)


def mosaic(frame: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Fragments of a frame side by side.

    Args:
      frame: uint8 [H, W, 3]. If a side is below 224, the frame is enlarged first, but the corners stay those of the
        smaller frame, as in the original, so that only the upper left part is seen.
      corners: see `fragment_corners`.

    Returns:
      uint8 [224, 224, 3].
    """
    scale = max(SIDE / side for side in frame.shape[:2])
    if scale > 1:
        sizes = [int(side * scale) for side in frame.shape[:2]]
        larger = resized(frame / np.float32(255), sizes, 1 / scale) * 255
        frame = larger.astype(np.uint8)  # truncated, not rounded
    rows = [
        np.concatenate([frame[y : y + _FRAGMENT, x : x + _FRAGMENT] for y, x in row], axis=1)
        for row in corners
    ]
    return np.concatenate(rows)


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """A frame uint8 [H, W, 3] resized to 224x224, without a filter against aliasing, as DOVER was trained."""
    return np.rint(resized(frame.astype(np.float32), (SIDE, SIDE))).astype(np.uint8)


def resized(image: np.ndarray, sizes: Sequence[int], step: float | None = None) -> np.ndarray:
    """Bilinear interpolation of [H, W, C] with half-pixel centres, without a filter against aliasing.

    Args:
      image: float32.
      sizes: height and width of the result.
      step: distance of the result's pixels in pixels of the image; None for the ratio of the sizes.
    """
    half = np.float32(0.5)
    for axis in (1, 0):  # in this order and in float32, the rounding is PyTorch's
        size, whole = sizes[axis], image.shape[axis]
        at = (np.arange(size, dtype=np.float32) + half) * np.float32(step or whole / size) - half
        at = np.maximum(at, 0)
        low = np.minimum(at.astype(int), whole - 1)
        high = np.minimum(low + 1, whole - 1)
        share = np.expand_dims((at - low).astype(np.float32), (0, 2) if axis == 1 else (1, 2))
        image = np.take(image, low, axis) * (1 - share) + np.take(image, high, axis) * share
    return image


class DoverScorer:
    """The score of a clip; memory holds the two views, whatever the length of the clip.

    The original draws frames and fragments at random; here the draws are the same for all clips of the same size
    and length.
    """

    def __init__(self, networks: Networks, num_frames: int):
        self._params = networks["dover"]
        self._rng = np.random.default_rng(_SEED)
        self._runs = sampled_frames(num_frames, _RUNS, _FRAMES, self._rng)
        self._spread = sampled_frames(num_frames, _FRAMES, 1, self._rng).reshape(-1)
        self._technical = np.zeros((_RUNS, _FRAMES, SIDE, SIDE, 3), np.uint8)
        self._aesthetic = np.zeros((1, _FRAMES, SIDE, SIDE, 3), np.uint8)
        self._corners: list[np.ndarray] = []
        self._number = 0

    def add(self, frames: np.ndarray, truths: np.ndarray | None) -> list[float]:
        if not self._corners:
            height, width = frames.shape[1:3]
            self._corners = [fragment_corners(height, width, self._rng) for _ in range(_RUNS)]
        for frame in frames:
            for run, corners in enumerate(self._corners):
                if (places := self._runs[run] == self._number).any():
                    self._technical[run, places] = mosaic(frame, corners)
            if (places := self._spread == self._number).any():
                self._aesthetic[0, places] = thumbnail(frame)
            self._number += 1
        return []

    def finish(self) -> list[float]:
        # One run after the other, as the attention of a run takes 0.3 GB.
        technical = [float(branch_score("technical", self._params, run[None])[0]) for run in self._technical]
        (aesthetic,) = branch_score("aesthetic", self._params, self._aesthetic)
        return [fused(float(np.mean(technical)), float(aesthetic))]


DOVER = Metric(
    "DOVER",
    4,
    True,
    DoverScorer,
    "technical and aesthetic score, scaled and fused as published, 0 to 1; fragments drawn with a fixed seed",
    values="clip",
    needs_truth=False,
    networks=("dover",),
    smallest_side=_FRAGMENT,
)
