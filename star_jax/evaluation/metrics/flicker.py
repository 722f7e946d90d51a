"""Flicker: how much the error changes from one frame to the next."""

import numpy as np

from star_jax.evaluation.metrics.metric import Metric


class FlickerScorer:
    """Mean absolute change of (frame - truth) from frame to frame, RGB, in levels of 255; holds one error."""

    def __init__(self) -> None:
        self._error: np.ndarray | None = None

    def add(self, frames: np.ndarray, truths: np.ndarray) -> list[float]:
        changes = []
        for frame, truth in zip(frames, truths, strict=True):
            error = np.subtract(frame, truth, dtype=np.int16)
            if self._error is not None:
                changes.append(float(np.mean(np.abs(error - self._error))))
            self._error = error
        return changes

    def finish(self) -> list[float]:
        return []


FLICKER = Metric(
    "flicker",
    3,
    False,
    lambda *_: FlickerScorer(),
    "mean absolute change of the error (result - truth) from one frame to the next, RGB, in levels of 255",
    values="pair",
)
