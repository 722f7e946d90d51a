"""The page of an upscaling run: every clip before and after, with settings, timings and scores."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from star_jax.evaluation.before_after import PageClip, Reader, describe, scores, write_page
from star_jax.inference.batch import Outcome, Summary
from star_jax.video.images import open_source
from star_jax.video.outputs import is_pattern


def report_run(
    summary: Summary,
    output: str | os.PathLike,
    *,
    truth: str | os.PathLike | None = None,
    run: dict[str, Any] | None = None,
    progress: bool = False,
) -> None:
    """Writes a page of all clips that were upscaled; see `write_page`.

    Args:
      summary: outcomes of the run.
      output: .html file.
      truth: ground truth, for a run with a single clip.
      run: names and values that apply to all clips, such as the checkpoint.
      progress: show a progress bar.
    """
    clips = [_clip(outcome, truth, run or {}) for outcome in summary.of("done")]
    if clips:
        write_page(output, clips, progress=progress)


def _clip(outcome: Outcome, truth: str | os.PathLike | None, run: dict[str, Any]) -> PageClip:
    job, settings = outcome.job, outcome.settings
    assert job is not None and settings is not None  # the clip is done
    written = outcome.output.parent if is_pattern(outcome.output) else outcome.output
    panels: dict[str, Reader] = {"input, bicubic": job.reader, "output": open_source(written)}
    facts = {
        "Files": {label: describe(reader) for label, reader in panels.items()},
        "Settings": run
        | {name: value for name, value in dataclasses.asdict(settings).items() if value != ""},
        "Seconds": {**outcome.seconds, "per frame": outcome.seconds["total"] / job.num_frames},
    }
    if truth is not None:
        panels["ground truth"] = open_source(truth)
        facts["Scores"] = scores(outcome.source, written, truth)
    return PageClip(Path(outcome.output).name, panels, first_frame=job.frames[0], facts=facts)
