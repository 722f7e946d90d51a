"""Results of an evaluation: values per frame, means per clip, means over clips, differences and wins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from star_jax.evaluation.clips import ClipPair
from star_jax.evaluation.metrics.metric import Metric

Means = dict[str, float | None]


@dataclass(frozen=True)
class ClipScores:
    """Scores of one clip of one result.

    Attributes:
      name: name of the clip.
      frames: numbers of the frames that were scored.
      values: metric -> values, one for each frame, each pair of neighbouring frames, or the clip.
    """

    name: str
    frames: tuple[int, ...]
    values: Mapping[str, Sequence[float]]

    def means(self) -> Means:
        """The mean of each metric; None if there is no value (such as the flicker of a single frame)."""
        return {name: float(np.mean(values)) if len(values) else None for name, values in self.values.items()}


@dataclass(frozen=True)
class Report:
    """Scores of one or several results.

    Attributes:
      metrics: metrics by name.
      scores: result (or baseline) -> scores of its clips, in the same order for all.
      clips: result -> clips that were scored.
      baseline: name of the enlarged input in `scores`, or None.
      protocol: name of the protocol, or None.
      weights: network -> source of its weights.
    """

    metrics: Mapping[str, Metric]
    scores: Mapping[str, list[ClipScores]]
    clips: Mapping[str, list[ClipPair]]
    baseline: str | None = None
    protocol: str | None = None
    weights: Mapping[str, Mapping[str, str]] | None = None

    def means(self, name: str) -> Means:
        """Means of a result over its clips, which all have the same weight, whatever their length."""
        return mean_of([clip.means() for clip in self.scores[name]])

    def wins(self) -> dict[str, dict[str, int]]:
        """Metric -> result -> number of clips in which it is better than all others; a tie is no win."""
        wins = {metric: dict.fromkeys(self.scores, 0) for metric in self.metrics}
        for clips in zip(*self.scores.values(), strict=True):
            means = dict(zip(self.scores, (clip.means() for clip in clips), strict=True))
            for name, metric in self.metrics.items():
                if (winner := _winner(name, metric, means)) is not None:
                    wins[name][winner] += 1
        return wins


def _winner(name: str, metric: Metric, means: Mapping[str, Means]) -> str | None:
    values = {result: value for result, mean in means.items() if (value := mean[name]) is not None}
    for result, value in values.items():
        if all(metric.better(value, other) for rival, other in values.items() if rival != result):
            return result
    return None


def mean_of(means: Sequence[Means]) -> Means:
    """Means over clips, without clips that have no value."""
    found = {name: [value for mean in means if (value := mean[name]) is not None] for name in means[0]}
    return {name: float(np.mean(values)) if values else None for name, values in found.items()}


def difference(means: Means, baseline: Means) -> Means:
    """Scores minus the scores of a baseline."""
    return {
        name: None if value is None or (other := baseline[name]) is None else value - other
        for name, value in means.items()
    }
