"""Scores results against ground truth, clip by clip, with a few frames in memory at a time."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from star_jax.errors import InputError
from star_jax.evaluation.clips import ClipPair, pair_clips
from star_jax.evaluation.enlarge import check_baseline, enlarge
from star_jax.evaluation.metrics.metric import Metric, Networks
from star_jax.evaluation.metrics.registry import DEFAULT, choose
from star_jax.evaluation.protocols import get_protocol
from star_jax.evaluation.scores import ClipScores, Report
from star_jax.evaluation.weights import MetricWeights

PathLike = str | os.PathLike
_FRAMES_AT_ONCE = 2
OnFrames = Callable[[int], None]  # frames scored since the last call


def evaluate(
    results: PathLike | Mapping[str, PathLike],
    truth: PathLike | None = None,
    *,
    metrics: Sequence[str] | None = None,
    protocol: str | None = None,
    input: PathLike | None = None,
    baseline: str = "bicubic",
    crop: bool = False,
    num_frames: int | None = None,
    weights: Sequence[PathLike] = (),
    on_frames: OnFrames | None = None,
) -> Report:
    """Scores one or several results; see `Evaluation` for the arguments and errors.

    Args:
      on_frames: called with the number of frames scored since the last call.

    Raises:
      RunError: a file is damaged after its first frame, or FFmpeg fails.
    """
    return Evaluation(
        results,
        truth,
        metrics=metrics,
        protocol=protocol,
        input=input,
        baseline=baseline,
        crop=crop,
        num_frames=num_frames,
        weights=weights,
    ).run(on_frames)


class Evaluation:
    """Clips and scores to compute, all checked before anything is computed.

    Args:
      results: a video, a folder of images, or a folder of these; several results as a mapping of names in the
        report.
      truth: ground truth, in the same form; None for scores that need none.
      metrics: names from registry.METRICS; None for the protocol's, or else PSNR, SSIM and flicker.
      protocol: name from PROTOCOLS, which sets frames, crop and scores.
      input: low-resolution clips, which are enlarged and scored like a result.
      baseline: method that enlarges them: bicubic, bilinear or lanczos.
      crop: whether to score the common top-left part if sizes differ.
      num_frames: number of first frames of each clip to score; None for all.
      weights: files and folders of weights, which take precedence over converted ones and over packages.

    Attributes:
      methods: name -> clips of a result. The enlarged input has the baseline's name and no clips of its own.

    Raises:
      InputError: a clip has no partner, clips do not match, a metric or protocol is unknown, or weights are
        missing, damaged or not the authors'.
    """

    def __init__(
        self,
        results: PathLike | Mapping[str, PathLike],
        truth: PathLike | None = None,
        *,
        metrics: Sequence[str] | None = None,
        protocol: str | None = None,
        input: PathLike | None = None,
        baseline: str = "bicubic",
        crop: bool = False,
        num_frames: int | None = None,
        weights: Sequence[PathLike] = (),
    ):
        check_baseline(baseline)
        if num_frames is not None and num_frames < 1:
            raise InputError(f"--frames is {num_frames}; give at least 1")
        self.protocol = protocol
        rules = get_protocol(protocol) if protocol is not None else None
        self.metrics = choose(metrics or (rules.metrics if rules else DEFAULT))
        _check_truth(self.metrics, truth)
        self.baseline = baseline if input is not None else None
        if not isinstance(results, Mapping):
            results = {_name(results): results}
        if self.baseline in results:
            raise InputError(f"a result is named {baseline!r}, like the enlarged input; give it another name")
        self.methods = {
            name: pair_clips(
                Path(path),
                _path(truth),
                _path(input),
                crop=crop or (rules is not None and rules.crop),
                num_frames=num_frames,
                frames=rules.frames if rules and num_frames is None else None,
                shorter=rules is not None and rules.shorter,
            )
            for name, path in results.items()
        }
        _check_same_clips(self.methods)
        _check_sizes(self.methods, self.metrics)
        needed = dict.fromkeys(name for metric in self.metrics.values() for name in metric.networks)
        self._networks, self.weights = MetricWeights(weights).load(needed)
        for metric in self.metrics.values():
            metric.check()

    @property
    def total_frames(self) -> int:
        """Number of frames to score, over all results."""
        return sum(len(pair.frames) for pairs in self.methods.values() for pair in pairs)

    def run(self, on_frames: OnFrames | None = None) -> Report:
        """Scores everything; see `evaluate`."""
        scores: dict[str, list[ClipScores]] = {name: [] for name in self.methods}
        if self.baseline is not None:
            scores[self.baseline] = []
        first = next(iter(self.methods))
        for name, pairs in self.methods.items():
            for pair in pairs:
                # The enlarged input is the same for all results, so it is scored only with the first one.
                with_input = self.baseline if name == first else None
                result, enlarged = score_clip(pair, self.metrics, self._networks, with_input, on_frames)
                scores[name].append(result)
                if enlarged is not None and self.baseline is not None:
                    scores[self.baseline].append(enlarged)
        return Report(self.metrics, scores, self.methods, self.baseline, self.protocol, self.weights)


def score_clip(
    pair: ClipPair,
    metrics: Mapping[str, Metric],
    networks: Networks | None = None,
    baseline: str | None = None,
    on_frames: OnFrames | None = None,
) -> tuple[ClipScores, ClipScores | None]:
    """Scores the frames of a clip.

    Args:
      pair: the clip.
      metrics: the scores by name.
      networks: networks that the scores need.
      baseline: method that enlarges the input, which is then scored, too; None to leave it out.
      on_frames: called with the number of frames scored since the last call.

    Returns:
      The scores of the result, and of the enlarged input (None without `baseline`).
    """
    result = _ClipScorer(pair, metrics, networks or {})
    enlarged = _ClipScorer(pair, metrics, networks or {}) if baseline is not None else None
    height, width = pair.result.info.height, pair.result.info.width
    for frames, truths, lows in pair.pieces(_FRAMES_AT_ONCE):
        result.add(frames, truths)
        if enlarged is not None:
            assert baseline is not None and lows is not None
            larger = np.stack([enlarge(low, height, width, baseline) for low in lows])
            enlarged.add(pair.top_left(larger), truths)
        if on_frames is not None:
            on_frames(len(frames))
    return result.finish(), enlarged.finish() if enlarged is not None else None


class _ClipScorer:
    """All scores of one clip."""

    def __init__(self, pair: ClipPair, metrics: Mapping[str, Metric], networks: Networks):
        self._pair = pair
        self._scorers = {name: metric.scorer(networks, len(pair.frames)) for name, metric in metrics.items()}
        self._values: dict[str, list[float]] = {name: [] for name in metrics}

    def add(self, frames: np.ndarray, truths: np.ndarray | None) -> None:
        for name, scorer in self._scorers.items():
            self._values[name] += scorer.add(frames, truths)

    def finish(self) -> ClipScores:
        for name, scorer in self._scorers.items():
            self._values[name] += scorer.finish()
        return ClipScores(self._pair.name, tuple(self._pair.frames), self._values)


def _check_truth(metrics: Mapping[str, Metric], truth: PathLike | None) -> None:
    comparing = [name for name, metric in metrics.items() if metric.needs_truth]
    if truth is None and comparing:
        raise InputError(
            f"{', '.join(comparing)} need ground truth; give it, or choose scores without it, such as "
            "--metrics niqe,ilniqe,ewarp"
        )


def _check_same_clips(methods: Mapping[str, list[ClipPair]]) -> None:
    (first, pairs), *others = methods.items()
    names = [pair.name for pair in pairs]
    for name, other_pairs in others:
        other_names = [pair.name for pair in other_pairs]
        # Single clips are partners whatever their names are.
        if len(names) != len(other_names) or (len(names) > 1 and names != other_names):
            odd = sorted(set(names) ^ set(other_names))[:3]
            raise InputError(
                f"{first} and {name} do not have the same clips ({', '.join(odd)}); add the missing ones"
            )
        for pair, other in zip(pairs, other_pairs, strict=True):
            if (pair.height, pair.width, tuple(pair.frames)) != (
                other.height,
                other.width,
                tuple(other.frames),
            ):
                raise InputError(
                    f"{pair.name} has {len(pair.frames)} frames of {pair.width}x{pair.height} to score in {first}, "
                    f"but {len(other.frames)} of {other.width}x{other.height} in {name}; give equal clips"
                )


def _check_sizes(methods: Mapping[str, list[ClipPair]], metrics: Mapping[str, Metric]) -> None:
    for pair in (pair for pairs in methods.values() for pair in pairs):
        for metric in metrics.values():
            if min(pair.height, pair.width) < metric.smallest_side:
                side = metric.smallest_side
                raise InputError(
                    f"{pair.result.info.path} has {pair.width}x{pair.height} pixels to score, but "
                    f"{metric.title} needs {side}x{side}; leave that score out"
                )


def _name(path: PathLike) -> str:
    path = Path(path).resolve()
    return path.name if path.is_dir() else path.stem


def _path(path: PathLike | None) -> Path | None:
    return Path(path) if path is not None else None
