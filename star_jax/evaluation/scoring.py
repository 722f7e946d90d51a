"""Scores clips frame by frame, in bounded memory, with an interpolation of the input beside them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from star_jax.evaluation.clips import ClipPair
from star_jax.evaluation.metrics import ClipScorer, Scores

# OpenCV's bicubic kernel has a = -0.75 and pixel centres at the half, like PyTorch's.
BASELINES = {"bicubic": cv2.INTER_CUBIC, "bilinear": cv2.INTER_LINEAR, "lanczos": cv2.INTER_LANCZOS4}
_FRAMES_AT_ONCE = 2


@dataclass(frozen=True)
class ClipResult:
    """Scores of a clip, and of the interpolated input where there is one."""

    pair: ClipPair
    result: Scores
    baseline: Scores | None


def score_clip(
    pair: ClipPair, baseline: str = "bicubic", on_frames: Callable[[int], None] | None = None
) -> ClipResult:
    """Scores every frame of a clip.

    Args:
      pair: the clip.
      baseline: how its input, if there is one, is enlarged; one of BASELINES.
      on_frames: called with the number of frames scored since the last call.

    Raises:
      RunError: a file that is damaged behind its first frame.
    """
    result, interpolated = ClipScorer(), ClipScorer()
    for frames, truths, lows in _pieces(pair):
        for i, truth in enumerate(truths):
            truth = _top_left(truth, pair)
            result.add(_top_left(frames[i], pair), truth)
            if lows is not None:
                interpolated.add(_top_left(enlarge(lows[i], pair, baseline), pair), truth)
        if on_frames is not None:
            on_frames(len(truths))
    return ClipResult(pair, result.scores(), interpolated.scores() if pair.low is not None else None)


def enlarge(low: np.ndarray, pair: ClipPair, baseline: str) -> np.ndarray:
    """Interpolates a frame of the input, uint8 [h, w, 3], to the size of the result, uint8 [H, W, 3]."""
    size = (pair.result.info.width, pair.result.info.height)
    return cv2.resize(low, size, interpolation=BASELINES[baseline])


def panels(pair: ClipPair, frame: int, baseline: str = "bicubic") -> dict[str, np.ndarray]:
    """One frame as what is to be compared, by label: the interpolated input, if any, the result, the truth."""
    images = {}
    if pair.low is not None:
        images[f"input, {baseline}"] = enlarge(pair.low.read(frame, 1)[0], pair, baseline)
    images["output"] = pair.result.read(frame, 1)[0]
    images["ground truth"] = pair.truth.read(frame, 1)[0]
    return {label: _top_left(image, pair) for label, image in images.items()}


def _pieces(pair: ClipPair) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    readers = [pair.result, pair.truth] + ([pair.low] if pair.low is not None else [])
    for pieces in zip(*(reader.chunks(_FRAMES_AT_ONCE) for reader in readers), strict=True):
        frames, truths, *lows = (piece for piece, _ in pieces)
        yield frames, truths, lows[0] if lows else None


def _top_left(frame: np.ndarray, pair: ClipPair) -> np.ndarray:
    return frame[: pair.height, : pair.width]
