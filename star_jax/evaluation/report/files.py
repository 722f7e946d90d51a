"""Scores as JSON and as CSV."""

import csv
import io
from typing import Any

from star_jax.environment import describe
from star_jax.evaluation.clips import ClipPair
from star_jax.evaluation.scores import ClipScores, Means, Report, difference


def to_json(report: Report) -> dict[str, Any]:
    """The whole report: means per clip and over clips, values per frame, files and networks.

    `mean` and `clips` belong to the first result; with several results, `results` has all of them and `wins` the
    numbers of clips that each wins.
    """
    names = [name for name in report.scores if name != report.baseline]
    first = names[0]
    content: dict[str, Any] = {
        "baseline": report.baseline,
        "num_clips": len(report.scores[first]),
        **_of_result(report, first),
        "protocol": report.protocol,
        "metrics": {
            name: {
                "definition": metric.rule,
                "better": "higher" if metric.higher_is_better else "lower",
                "values_of": metric.values,
            }
            for name, metric in report.metrics.items()
        },
        "weights": {name: dict(source) for name, source in (report.weights or {}).items()},
    }
    if len(names) > 1:
        content["results"] = {name: _of_result(report, name) for name in names}
        content["wins"] = report.wins()
    return content | describe()


def _of_result(report: Report, name: str) -> dict[str, Any]:
    baseline = report.scores[report.baseline] if report.baseline else [None] * len(report.scores[name])
    clips = zip(report.scores[name], baseline, report.clips[name], strict=True)
    return {
        "mean": _scores(report.means(name), report.means(report.baseline) if report.baseline else None),
        "clips": [_clip(clip, low, pair) for clip, low, pair in clips],
    }


def _clip(clip: ClipScores, low: ClipScores | None, pair: ClipPair) -> dict[str, Any]:
    files = {"result": pair.result, "ground_truth": pair.truth, "input": pair.low}
    return {
        "name": clip.name,
        "num_frames": len(clip.frames),
        "frame_size": [pair.height, pair.width],
        "files": {kind: str(reader.info.path) for kind, reader in files.items() if reader is not None},
        **_scores(clip.means(), low.means() if low is not None else None),
        "frames": list(clip.frames),
        "values": {name: list(values) for name, values in clip.values.items()},
    }


def _scores(means: Means, baseline: Means | None) -> dict[str, Means]:
    if baseline is None:
        return {"scores": means}
    return {"scores": means, "baseline_scores": baseline, "difference": difference(means, baseline)}


def to_csv(report: Report) -> str:
    """A CSV text with a row for each frame of each clip of each result, and a row with each clip's mean.

    The value of a pair of neighbouring frames is in the row of the second; the value of a clip is in the row of the
    mean.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["result", "clip", "frame", *report.metrics])
    for name, clips in report.scores.items():
        for clip in clips:
            for index, frame in enumerate(clip.frames):
                values = [value_at(report, clip, metric, index) for metric in report.metrics]
                writer.writerow([name, clip.name, frame, *map(_cell, values)])
            writer.writerow([name, clip.name, "mean", *map(_cell, clip.means().values())])
    return text.getvalue()


def value_at(report: Report, clip: ClipScores, metric: str, index: int) -> float | None:
    """The value of a metric at the index of a scored frame, or None if that frame has no value."""
    kind, values = report.metrics[metric].values, clip.values[metric]
    if kind == "clip" or (kind == "pair" and index == 0):
        return None
    return values[index - 1 if kind == "pair" else index]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
