"""One clip under every recipe, as one picture."""

import cv2
import numpy as np

from star_jax.data.degradations import RECIPES, degrade

_LABEL_WIDTH = 150
_FIRST = 4  # index of the first frame shown: codecs have settled by then


def contact_sheet(frames: np.ndarray, seed: int, columns: int = 4) -> np.ndarray:
    """Shows consecutive frames of a clip (columns) under each recipe (rows), below the clip itself.

    Args:
      frames: ground truth, uint8 [F, H, W, 3]; H and W multiples of 16, F at least columns + 4.
      seed: seed of the draws.
      columns: number of frames to show; side by side they reveal flicker.

    Returns:
      uint8 [rows * h, 150 + columns * w, 3] with the middle quarter (h = H/4, w = W/4) of every frame; low
      resolutions are enlarged by repeating pixels.
    """
    height, width = frames.shape[1:3]
    shown = slice(_FIRST, _FIRST + columns)
    rows = [_row("ground truth", [_middle(frame) for frame in frames[shown]])]
    for name, recipe in RECIPES.items():
        _, low = degrade(frames, recipe, seed)
        crops = [_middle(frame) for frame in low[shown]]
        size = (width // 4, height // 4)
        rows.append(_row(name, [cv2.resize(crop, size, interpolation=cv2.INTER_NEAREST) for crop in crops]))
    return np.concatenate(rows)


def _middle(frame: np.ndarray) -> np.ndarray:
    """The middle of a frame: a quarter of its height and width."""
    height, width = frame.shape[0] // 4, frame.shape[1] // 4
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return frame[top : top + height, left : left + width]


def _row(name: str, images: list[np.ndarray]) -> np.ndarray:
    label = np.full((images[0].shape[0], _LABEL_WIDTH, 3), 255, np.uint8)
    place = (8, images[0].shape[0] // 2)
    cv2.putText(label, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
    row = np.concatenate([label, *images], axis=1)
    row[:2] = 255
    return row
