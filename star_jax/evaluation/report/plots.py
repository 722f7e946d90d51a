"""Plots of scores over frames; needs matplotlib."""

import io
from types import ModuleType

from star_jax.errors import InputError
from star_jax.evaluation.report.files import value_at
from star_jax.evaluation.scores import Report

_INCHES = (7.0, 2.2)  # size of one metric's plot


def require_matplotlib() -> ModuleType:
    """matplotlib's module `figure`, whose Figure needs no window or global state.

    Raises:
      InputError: matplotlib is not installed.
    """
    try:
        from matplotlib import figure
    except ImportError as error:
        raise InputError("plots need matplotlib; pip install 'star_jax[plots]'") from error
    return figure


def plot_clip(report: Report, index: int) -> bytes:
    """A PNG of each metric's values over the frames of a clip, with a line for each result.

    Args:
      report: the scores.
      index: index of the clip.
    """
    metrics = {name: metric for name, metric in report.metrics.items() if metric.values != "clip"}
    size = (_INCHES[0], _INCHES[1] * len(metrics))
    figure = require_matplotlib().Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(metrics), sharex=True, squeeze=False)[:, 0]
    for axis, (name, metric) in zip(axes, metrics.items(), strict=True):
        for result, clips in report.scores.items():
            clip = clips[index]
            values = [value_at(report, clip, name, i) for i in range(len(clip.frames))]
            axis.plot(clip.frames, [float("nan") if v is None else v for v in values], ".-", label=result)
        axis.set_ylabel(metric.title)
        axis.grid(alpha=0.3)
    axes[0].legend(loc="upper left", bbox_to_anchor=(1, 1))
    axes[-1].set_xlabel("frame")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return png.getvalue()
