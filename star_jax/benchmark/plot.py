"""A line plot of a sweep's costs; needs matplotlib (the extra `plots`)."""

import io
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from star_jax.evaluation.report.plots import require_matplotlib
from star_jax.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]


def plot_sweep(path: str | os.PathLike, rows: list[dict[str, Any]], axis: str) -> None:
    """Draws the costs of a sweep over `frames` or `pixels`: operations by kind, and seconds if they were measured.

    Raises:
      InputError: matplotlib is not installed.
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
    picture = io.BytesIO()
    draw_lines(series, title, "frames" if axis == "frames" else "megapixels").savefig(picture, format="png")
    write_bytes(path, picture.getvalue())


def draw_lines(series: dict[str, Points], title: str, x_label: str) -> "Figure":
    """Draws named lines on logarithmic axes, with a tick at every x; skips points that are not positive."""
    figure = require_matplotlib().Figure(figsize=(7.6, 5.2), layout="constrained")
    axes = figure.subplots()
    ticks = set()
    for name, points in series.items():
        points = [(x, y) for x, y in points if x > 0 and y > 0]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
            ticks |= {x for x, _ in points}
    axes.set(title=title, xlabel=x_label, xscale="log", yscale="log")
    axes.set_xticks(sorted(ticks), [f"{x:.3g}" for x in sorted(ticks)])
    axes.minorticks_off()
    axes.grid(color="0.9")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure
