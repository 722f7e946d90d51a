"""Scores as a self-contained HTML file: table, plots, and the crops in which the results differ most."""

import base64
from html import escape

import cv2
import numpy as np

from star_jax.evaluation.picture import most_different, part_of_each
from star_jax.evaluation.report.plots import plot_clip
from star_jax.evaluation.report.table import text
from star_jax.evaluation.scores import Report
from star_jax.evaluation.views import GROUND_TRUTH, panels

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; }
th, td { padding: .25em .8em; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
td.best { font-weight: bold; background: #eef6ee; }
img { max-width: 100%; }
.parts { display: grid; grid-template-columns: repeat(auto-fit, minmax(20em, 1fr)); gap: .5em; }
.parts img { width: 100%; image-rendering: pixelated; }
figure { margin: 0; }
p.note { color: #666; }
"""


def to_html(report: Report) -> str:
    """The page as HTML text.

    Raises:
      InputError: matplotlib is not installed.
    """
    names = list(report.scores)
    title = "Scores of " + ", ".join(names)
    parts = [f"<h1>{escape(title)}</h1>", _table(report), _definitions(report)]
    for index in range(len(report.scores[names[0]])):
        parts += _clip(report, index)
    head = f"<meta charset='utf-8'><title>{escape(title)}</title><style>{_STYLE}</style>"
    return f"<!DOCTYPE html>\n<html><head>{head}</head><body>\n" + "\n".join(parts) + "\n</body></html>\n"


def _table(report: Report) -> str:
    means = {name: report.means(name) for name in report.scores}
    wins = report.wins()
    head = "".join(
        f"<th title='{escape(metric.rule)}'>{escape(metric.title)} {'↑' if metric.higher_is_better else '↓'}</th>"
        for metric in report.metrics.values()
    )
    rows = []
    for name, mean in means.items():
        cells = []
        for key, metric in report.metrics.items():
            values = [value for other in means.values() if (value := other[key]) is not None]
            own = mean[key]
            best = own is not None and not any(metric.better(value, own) for value in values)
            won = f" ({wins[key][name]})" if len(means) > 1 else ""
            cells.append(f"<td{' class=best' if best else ''}>{text(metric, own)}{won}</td>")
        rows.append(f"<tr><td>{escape(name)}</td>{''.join(cells)}</tr>")
    count = len(next(iter(report.scores.values())))
    note = f"Means over the frames of a clip, then over {count} clip{'s' if count > 1 else ''}"
    note += "; in brackets, the clips in which a result is the best." if len(means) > 1 else "."
    return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table><p class='note'>{note}</p>"


def _definitions(report: Report) -> str:
    items = (
        f"<li><b>{escape(metric.title)}</b>: {escape(metric.rule)}; "
        f"{'higher' if metric.higher_is_better else 'lower'} is better</li>"
        for metric in report.metrics.values()
    )
    protocol = f"<p>Protocol: {escape(report.protocol)}</p>" if report.protocol else ""
    return f"{protocol}<ul>{''.join(items)}</ul>"


def _clip(report: Report, index: int) -> list[str]:
    clip = next(iter(report.scores.values()))[index]
    frame = clip.frames[len(clip.frames) // 2]
    shown = panels({name: pairs[index] for name, pairs in report.clips.items()}, frame, report.baseline)
    compared = {label: image for label, image in shown.items() if label != GROUND_TRUTH}
    top_left = most_different(compared if len(compared) > 1 else shown)
    figures = (
        f"<figure>{_image(_png(part))}<figcaption>{escape(label)}</figcaption></figure>"
        for label, part in part_of_each(shown, top_left).items()
    )
    parts = [f"<h2>{escape(clip.name)}</h2>", f"<div class='parts'>{''.join(figures)}</div>"]
    parts.append(f"<p class='note'>The part of frame {frame} in which the results differ most.</p>")
    if any(metric.values != "clip" for metric in report.metrics.values()) and len(clip.frames) > 1:
        parts.append(_image(plot_clip(report, index)))
    return parts


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def _image(png: bytes) -> str:
    return f"<img src='data:image/png;base64,{base64.b64encode(png).decode()}'>"
