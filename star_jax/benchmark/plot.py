"""Line plots drawn with OpenCV, which the project needs anyway."""

import math
import os
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from star_jax.files import write_png

Points = Sequence[tuple[float, float]]

_SIZE = (520, 760)  # height, width
_BOX = (50, 450, 80, 560)  # top, bottom, left, right of the axes
_COLORS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189))


def plot_sweep(path: str | os.PathLike, rows: list[dict[str, Any]], axis: str) -> None:
    """Draws what a sweep over `frames` or `pixels` cost: operations by kind, and seconds where measured.

    Raises:
      RunError: the file cannot be written.
    """

    def size(row: dict[str, Any]) -> float:
        return row["frames"] if axis == "frames" else math.prod(row["padded_size"]) / 1e6

    series: dict[str, Points] = {"all, TFLOP": [(size(row), row["tflop_per_step"]) for row in rows]}
    for kind in rows[0].get("tflop_parts", {}):
        series[kind] = [(size(row), row["tflop_parts"][kind]) for row in rows]
    if all(row.get("seconds_per_step") for row in rows):
        series["seconds"] = [(size(row), row["seconds_per_step"]) for row in rows]
    first = rows[0]
    fixed = f"{first['height']}x{first['width']}" if axis == "frames" else f"{first['frames']} frames"
    title = f"{first['preset']} {first['component']}, {fixed}"
    write_png(path, draw_lines(series, title, "frames" if axis == "frames" else "megapixels"))


def draw_lines(series: dict[str, Points], title: str, x_label: str) -> np.ndarray:
    """Draws named lines on logarithmic axes; points with a coordinate of 0 or less are left out.

    Returns:
      uint8 [H, W, 3] RGB.
    """
    image = np.full((*_SIZE, 3), 255, np.uint8)
    series = {name: [(x, y) for x, y in points if x > 0 and y > 0] for name, points in series.items()}
    series = {name: points for name, points in series.items() if points}
    xs, ys = (np.array([point[i] for points in series.values() for point in points]) for i in (0, 1))
    to_x, to_y = _scale(xs, *_BOX[2:]), _scale(ys, _BOX[1], _BOX[0])
    top, bottom, left, right = _BOX
    for x in sorted(set(xs)):
        _tick(image, (to_x(x), bottom), (to_x(x), top), f"{x:.3g}", (-14, 18))
    for y in _decades(ys):
        _tick(image, (left, to_y(y)), (right, to_y(y)), f"{y:g}", (-70, 4))
    cv2.rectangle(image, (left, top), (right, bottom), (0, 0, 0), 1)
    for color, points in zip(_COLORS, series.values(), strict=False):
        places = [(to_x(x), to_y(y)) for x, y in points]
        cv2.polylines(image, [np.array(places, np.int32)], False, color, 2, cv2.LINE_AA)
        for place in places:
            cv2.circle(image, place, 4, color, -1, cv2.LINE_AA)
    for row, (color, name) in enumerate(zip(_COLORS, series, strict=False)):
        height = top + 14 + 24 * row
        cv2.line(image, (right + 15, height - 4), (right + 40, height - 4), color, 2, cv2.LINE_AA)
        _write(image, name, (right + 48, height))
    _write(image, title, (left, top - 16), scale=0.55)
    _write(image, x_label, ((left + right) // 2 - 30, bottom + 45))
    return image


def _scale(values: np.ndarray, first: int, last: int):
    """A logarithmic map from values to pixels, with a margin of 5 %."""
    low, high = np.log(values.min()), np.log(values.max())
    low, span = (low, high - low) if high > low else (low - 0.5, 1.0)
    return lambda value: round(first + (last - first) * (0.05 + 0.9 * (np.log(value) - low) / span))


def _decades(values: np.ndarray) -> list[float]:
    powers = range(int(np.ceil(np.log10(values.min()))), int(np.floor(np.log10(values.max()))) + 1)
    return [10.0**power for power in powers] or [float(values.min()), float(values.max())]


def _tick(
    image: np.ndarray, start: tuple[int, int], end: tuple[int, int], text: str, offset: tuple[int, int]
) -> None:
    cv2.line(image, start, end, (225, 225, 225), 1)
    _write(image, text, (start[0] + offset[0], start[1] + offset[1]))


def _write(image: np.ndarray, text: str, place: tuple[int, int], scale: float = 0.45) -> None:
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
