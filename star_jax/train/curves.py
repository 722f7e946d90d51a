"""Web page of a run: curves of metrics.jsonl, and the pictures and videos of its validations."""

import html
import io
import json

from etils import epath

from star_jax.evaluation.report.plots import require_matplotlib
from star_jax.files import appearing
from star_jax.train.metrics import METRICS_FILE
from star_jax.train.workdir import VALIDATION

CURVES_FILE = "curves.html"
_COLUMNS = 3
_INCHES = (4.6, 2.4)  # of one metric's plot
_STYLE = (
    "body { font: 15px/1.5 system-ui, sans-serif; margin: 2em; color: #222; } "
    "svg, img, video { max-width: 100%; } video { display: block; margin: 0.5em 0; }"
)


def write_curves(root: epath.Path, title: str) -> None:
    """Writes WORKDIR/curves.html: a plot of every metric over the steps, then the results of the validations.

    The curves are part of the page; pictures and videos are links to WORKDIR/validation.

    Raises:
      InputError: matplotlib is not installed.
    """
    curves = read_curves((root / METRICS_FILE).read_text())
    page = (
        f"<!DOCTYPE html>\n<html><head><meta charset='utf-8'><title>{html.escape(title)}</title><style>{_STYLE}"
        f"</style></head><body>\n<h1>{html.escape(title)}</h1>\n{_svg(curves)}\n{_validation(root)}"
        "</body></html>\n"
    )
    with appearing(root / CURVES_FILE) as partial:
        partial.write_text(page)


def read_curves(lines: str) -> dict[str, list[tuple[int, float]]]:
    """Metric -> [(step, value)], in the order in which metrics first appear; null values are left out."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in lines.splitlines():
        values = json.loads(line)
        step = values.pop("step")
        for name, value in values.items():
            points = curves.setdefault(name, [])
            if value is not None:
                points.append((step, value))
    return curves


def _validation(root: epath.Path) -> str:
    """The last validation's picture and videos, and links to those of the earlier ones."""
    folder = root / VALIDATION
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    steps = sorted({name[:7] for name in names if name[:7].isdigit()}, reverse=True)
    parts = []
    for step in steps:
        files = [(name, f"{VALIDATION}/{name}") for name in names if name.startswith(step)]
        if step == steps[0]:
            parts.append(f"<h2>Validation at step {int(step)}: low resolution, output, ground truth</h2>\n")
            parts += [_shown(link) for _, link in files]
        else:
            links = ", ".join(f"<a href='{link}'>{name}</a>" for name, link in files)
            parts.append(f"<p>step {int(step)}: {links}</p>\n")
    return "".join(parts)


def _shown(link: str) -> str:
    if link.endswith(".mp4"):
        return f"<video src='{link}' controls muted loop preload='metadata'></video>\n"
    return f"<img src='{link}' alt='{link}'>\n"


def _svg(curves: dict[str, list[tuple[int, float]]]) -> str:
    rows = -(-len(curves) // _COLUMNS)
    size = (_COLUMNS * _INCHES[0], rows * _INCHES[1])
    figure = require_matplotlib().Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axis, (name, points) in zip(axes, curves.items(), strict=False):
        axis.plot(*zip(*points, strict=True), ".-" if len(points) < 50 else "-", linewidth=1)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    for axis in axes[len(curves) :]:
        axis.set_axis_off()
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg")
    text = drawing.getvalue()
    return text[text.index("<svg") :]
