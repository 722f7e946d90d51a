"""Description of a score: title, direction, requirements, and a scorer that takes frames as they come."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

Networks = Mapping[str, Mapping[str, jax.Array]]  # name -> parameters by path


Truth = Any  # an array; None for a score that needs no ground truth, where there is none


class Scorer(Protocol):
    """Scores one clip."""

    def add(self, frames: np.ndarray, truths: Truth) -> list[float]:
        """Takes the next frames and their ground truth, uint8 [n, H, W, 3]; returns the values they complete."""

    def finish(self) -> list[float]:
        """Values that only the end of the clip completes."""


@dataclass(frozen=True)
class Metric:
    """A score.

    Attributes:
      title: head of its column.
      digits: number of digits printed behind the point.
      higher_is_better: whether a larger value is better.
      scorer: makes a scorer for one clip, of the networks named below and the clip's number of frames.
      values: unit that has one value each: "frame", "pair" of neighbouring frames, or "clip".
      needs_truth: whether it compares with the ground truth.
      networks: networks that it needs; see convert/metric_networks.py.
      smallest_side: the least number of pixels that it can score.
      rule: definition of the score in one line.
      check: raises InputError where a program that it needs is missing.
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
    """A score of single frames, by a function of (frame, truth), uint8 [H, W, 3]."""

    def __init__(self, score: Callable[[np.ndarray, Truth], float]):
        self._score = score

    def add(self, frames: np.ndarray, truths: np.ndarray | None) -> list[float]:
        others = [None] * len(frames) if truths is None else truths
        return [self._score(frame, truth) for frame, truth in zip(frames, others, strict=True)]

    def finish(self) -> list[float]:
        return []


class BatchScorer:
    """A score of single frames, by a compiled function of batches.

    Args:
      score: (frames, truths), each uint8 [n, H, W, 3], to n values; the last batch is filled up, so that it is
        compiled once for each size of frames.
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
