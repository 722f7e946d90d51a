"""Description of a score: title, direction, requirements, and a scorer that takes frames one batch at a time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

Networks = Mapping[str, Mapping[str, jax.Array]]  # name -> parameters by path


Truth = Any  # an array, or None for a score that needs no ground truth


class Scorer(Protocol):
    """Scores one clip."""

    def add(self, frames: np.ndarray, truths: Truth) -> list[float]:
        """Takes the next frames and their ground truth, uint8 [n, H, W, 3]; returns the values they complete."""

    def finish(self) -> list[float]:
        """Returns the values that only the end of the clip completes."""


@dataclass(frozen=True)
class Metric:
    """A score.

    Attributes:
      title: heading of the column.
      digits: number of decimals to print.
      higher_is_better: whether a larger value is better.
      scorer: makes a scorer for one clip from the networks below and the clip's number of frames.
      values: unit of which each has one value: "frame", "pair" of neighbouring frames, or "clip".
      needs_truth: whether the score compares with the ground truth.
      networks: networks that the score needs; see convert/metric_networks.py.
      smallest_side: smallest height and width that can be scored, in pixels.
      rule: definition of the score in one line.
      check: raises InputError if a program that the score needs is missing.
    """

    title: str
    digits: int
    higher_is_better: bool
    scorer: Callable[[Networks, int], Scorer]
    rule: str
    values: str = "frame"
    needs_truth: bool = True
    networks: tuple[str, ...] = ()
    smallest_side: int = 1
    check: Callable[[], object] = lambda: None

    def better(self, a: float, b: float) -> bool:
        """Whether score `a` is better than `b`."""
        return a > b if self.higher_is_better else a < b


class FrameScorer:
    """A score of single frames, computed by a function of (frame, truth), uint8 [H, W, 3]."""

    def __init__(self, score: Callable[[np.ndarray, Truth], float]):
        self._score = score

    def add(self, frames: np.ndarray, truths: np.ndarray | None) -> list[float]:
        others = [None] * len(frames) if truths is None else truths
        return [self._score(frame, truth) for frame, truth in zip(frames, others, strict=True)]

    def finish(self) -> list[float]:
        return []


class BatchScorer:
    """A score of single frames, computed by a compiled function of batches.

    Args:
      score: (frames, truths), each uint8 [n, H, W, 3], -> n values; the last batch is padded, so that the function
        is compiled once per frame size.
    """

    def __init__(self, score: Callable[[np.ndarray, np.ndarray], jax.Array]):
        self._score = score
        self._size = 0

    def add(self, frames: np.ndarray, truths: np.ndarray) -> list[float]:
        self._size = max(self._size, len(frames))
        missing = self._size - len(frames)
        filled = [np.pad(x, ((0, missing), (0, 0), (0, 0), (0, 0)), mode="edge") for x in (frames, truths)]
        return [float(value) for value in np.asarray(self._score(*filled))[: len(frames)]]

    def finish(self) -> list[float]:
        return []
