"""Frames of the compared clips, by label, for pictures."""

from collections.abc import Mapping

import numpy as np

from star_jax.evaluation.clips import ClipPair
from star_jax.evaluation.enlarge import enlarge

GROUND_TRUTH = "ground truth"


def panels(pairs: Mapping[str, ClipPair], frame: int, baseline: str | None = None) -> dict[str, np.ndarray]:
    """One frame of each result of a clip, uint8 [H, W, 3], cropped to the scored part.

    Args:
      pairs: label -> the clip of that result; truth and input are taken from the first.
      frame: number of the frame.
      baseline: method that enlarges the input; None to leave the input out.

    Returns:
      Label -> frame: the enlarged input, if any, the results, and the ground truth, if any.
    """
    first = next(iter(pairs.values()))
    images = {}
    if first.low is not None and baseline is not None:
        size = (first.result.info.height, first.result.info.width)
        images[f"input, {baseline}"] = enlarge(first.low.read(frame, 1)[0], *size, baseline)
    images |= {label: pair.result.read(frame, 1)[0] for label, pair in pairs.items()}
    if first.truth is not None:
        images[GROUND_TRUTH] = first.truth.read(frame, 1)[0]
    return {label: first.top_left(image) for label, image in images.items()}
