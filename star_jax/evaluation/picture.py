"""Frames side by side, whole and zoomed in, in one picture."""

import cv2
import numpy as np

ZOOM = 4
_LABEL_HEIGHT = 28
_GAP = 4
_FRAME_COLOR = (255, 210, 0)


def comparison(panels: dict[str, np.ndarray], top_left: tuple[int, int] | None = None) -> np.ndarray:
    """Draws frames side by side under their labels, and below each frame a part of it, four times as large.

    Args:
      panels: label -> frame uint8 [H, W, 3], all of the same size; the last one is the ground truth.
      top_left: (y, x) of the part of H/4 x W/4 pixels; by default where the ground truth has the most detail, so
        that the choice favours no result.

    Returns:
      uint8 [28 + 2 H + 4, n W + 4 (n - 1), 3].
    """
    truth = list(panels.values())[-1]
    height, width = truth.shape[0] // ZOOM, truth.shape[1] // ZOOM
    y, x = _most_detail(truth, height, width) if top_left is None else top_left
    columns = []
    for label, frame in panels.items():
        size = frame.shape[1::-1]
        zoomed = cv2.resize(frame[y : y + height, x : x + width], size, interpolation=cv2.INTER_NEAREST)
        marked = cv2.rectangle(frame.copy(), (x, y), (x + width - 1, y + height - 1), _FRAME_COLOR, 2)
        columns.append(np.concatenate([_label(label, size[0]), marked, _white(_GAP, size[0]), zoomed]))
        columns.append(_white(columns[-1].shape[0], _GAP))
    return np.concatenate(columns[:-1], axis=1)


def part_of_each(panels: dict[str, np.ndarray], top_left: tuple[int, int]) -> dict[str, np.ndarray]:
    """The part of H/4 x W/4 pixels of each frame that begins at `top_left` (y, x)."""
    y, x = top_left
    return {
        label: frame[y : y + frame.shape[0] // ZOOM, x : x + frame.shape[1] // ZOOM]
        for label, frame in panels.items()
    }


def most_different(panels: dict[str, np.ndarray]) -> tuple[int, int]:
    """(y, x) of the part of H/4 x W/4 pixels in which the frames differ most from each other.

    Args:
      panels: label -> frame uint8 [H, W, 3], all of the same size.
    """
    frames = np.stack(list(panels.values())).astype(np.float32)
    return _largest(frames.var(axis=0).sum(axis=-1), frames.shape[1] // ZOOM, frames.shape[2] // ZOOM)


def _most_detail(frame: np.ndarray, height: int, width: int) -> tuple[int, int]:
    """(y, x) of the part of the given size with the largest sum of squared second derivatives."""
    detail = np.square(cv2.Laplacian(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.CV_32F))
    return _largest(detail, height, width)


def _largest(amount: np.ndarray, height: int, width: int) -> tuple[int, int]:
    """(y, x) of the part of the given size with the largest sum over `amount` [H, W]."""
    sums = cv2.integral(amount)
    parts = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    y, x = np.unravel_index(np.argmax(parts), parts.shape)
    return int(y), int(x)


def _label(text: str, width: int) -> np.ndarray:
    strip = _white(_LABEL_HEIGHT, width)
    return cv2.putText(strip, text, (4, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)


def _white(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)
