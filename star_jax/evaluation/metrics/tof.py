"""tOF (Chu et al. 2020): distance between the motion of the result and of the ground truth."""

from typing import Any

import cv2
import numpy as np

from star_jax.evaluation.metrics.metric import Metric
from star_jax.evaluation.metrics.psnr import luma

_FARNEBACK = (
    0.5,
    3,
    15,
    3,
    5,
    1.2,
    0,
)  # pyramid scale, levels, window, iterations, polynomial, its sigma, flags

_NEW_FLOW: Any = None  # no initial flow


class TofScorer:
    """Mean Euclidean distance of the optical flows of result and ground truth in pixels, as in TecoGAN's script.

    Memory holds the luma of one frame of each.
    """

    def __init__(self) -> None:
        self._previous: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, frames: np.ndarray, truths: np.ndarray) -> list[float]:
        distances = []
        for frame, truth in zip(frames, truths, strict=True):
            current = luma(frame), luma(truth)
            if self._previous is not None:
                moved = [
                    cv2.calcOpticalFlowFarneback(before, after, _NEW_FLOW, *_FARNEBACK)
                    for before, after in zip(self._previous, current, strict=True)
                ]
                distances.append(float(np.mean(np.linalg.norm(moved[0] - moved[1], axis=-1))))
            self._previous = current
        return distances

    def finish(self) -> list[float]:
        return []


TOF = Metric(
    "tOF px",
    3,
    False,
    lambda *_: TofScorer(),
    "mean distance of the optical flows of result and truth (OpenCV's Farneback: 0.5, 3, 15, 3, 5, 1.2), in pixels",
    values="pair",
    smallest_side=16,
)
