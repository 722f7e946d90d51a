"""A run over several files: a file that fails is reported, and the run continues with the others."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from star_jax.errors import StarError, first_line
from star_jax.inference.display import FileWork, RunProgress
from star_jax.inference.jobs import Job, Source, is_there
from star_jax.inference.settings import UpscaleSettings
from star_jax.progress import clock_text


@dataclass(frozen=True)
class Outcome:
    """The outcome of one input.

    Attributes:
      source, output: the files.
      status: `done`, `skipped` (the output existed) or `failed`.
      error: exception of an input that failed.
      job: job of an input that is done.
      settings: settings that were used, including tiles and window.
      seconds: seconds spent in each stage, and in `total`.
    """

    source: Path
    output: Path
    status: str
    error: Exception | None = None
    job: Job | None = None
    settings: UpscaleSettings | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """Why the input failed, in one line."""
        if isinstance(self.error, StarError):
            return str(self.error)
        assert self.error is not None
        return f"{type(self.error).__name__}: {first_line(self.error)}"


@dataclass(frozen=True)
class Summary:
    """The outcomes of all inputs.

    Attributes:
      outcomes: outcomes in the order of the inputs.
      seconds: seconds that the whole run took.
    """

    outcomes: list[Outcome]
    seconds: float

    def of(self, status: str) -> list[Outcome]:
        """The outcomes with this status."""
        return [outcome for outcome in self.outcomes if outcome.status == status]

    @property
    def num_frames(self) -> int:
        """Number of frames that were written."""
        return sum(outcome.job.num_frames for outcome in self.of("done") if outcome.job is not None)

    @property
    def exit_code(self) -> int:
        """0 if no input failed, 2 if all failed because of bad input, else 1; skipped inputs do not count."""
        failed = self.of("failed")
        if not failed:
            return 0
        is_bad_input = all(getattr(outcome.error, "exit_code", 1) == 2 for outcome in failed)
        return 2 if is_bad_input and not self.of("done") else 1

    def failures(self) -> list[str]:
        """One line for each input that failed."""
        return [f"failed: {outcome.source}: {outcome.reason}" for outcome in self.of("failed")]

    def describe(self) -> str:
        """The last line of a run: number of files and frames, time and speed."""
        speed = f", {self.num_frames / self.seconds:.2g} frames/s" if self.num_frames else ""
        totals = f"{self.num_frames} frames in {clock_text(self.seconds)}{speed}"
        if len(self.outcomes) == 1:
            return totals
        counts = ", ".join(f"{len(self.of(status))} {status}" for status in ("done", "skipped", "failed"))
        return f"{len(self.outcomes)} files: {counts}; {totals}"


class Batch:
    """Opens all inputs, then works on them one after the other.

    Args:
      sources, outputs: input files and their outputs.
      open_job: opens an input.
      skip_existing: skip inputs whose output exists.

    Raises:
      StarError: the only input cannot be opened. With several inputs, `run` reports the failures instead.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        outputs: Sequence[Path],
        open_job: Callable[[Source, Path], Job],
        *,
        skip_existing: bool,
    ):
        self._is_alone = len(sources) == 1
        self._files: list[tuple[Source, Job | Outcome]] = []
        for source, output in zip(sources, outputs, strict=True):
            if skip_existing and is_there(output):
                found: Job | Outcome = Outcome(source.path, output, "skipped")
            else:
                try:
                    found = open_job(source, output)
                except StarError as error:
                    if self._is_alone:
                        raise
                    found = Outcome(source.path, output, "failed", error)
            self._files.append((source, found))

    def run(
        self, work: Callable[[Job, RunProgress], UpscaleSettings], *, show: str, overwrite: bool
    ) -> Summary:
        """Works on every input that could be opened.

        Args:
          work: upscales a clip, and returns the settings that it used.
          show: see `RunProgress`.
          overwrite: replace existing outputs without a warning.

        Raises:
          Exception: `work` failed on the only input.
        """
        jobs = [job for _, job in self._files if isinstance(job, Job)]
        outcomes, started = [], time.monotonic()
        with RunProgress([_file_work(job) for job in jobs], show).shown() as progress:
            for job in jobs:
                if job.output.is_file() and not overwrite:
                    progress.warn(
                        f"{job.output} exists and will be replaced (--overwrite replaces it without this warning)"
                    )
            for source, found in self._files:
                if isinstance(found, Job):
                    progress.begin(jobs.index(found))
                    found = self._attempt(source, found, work, progress)
                    progress.end()
                _report(found, progress)
                outcomes.append(found)
            summary = Summary(outcomes, time.monotonic() - started)
            progress.say(summary.describe())
            progress.event(
                "summary",
                **{key: len(summary.of(key)) for key in ("done", "skipped", "failed")},
                num_frames=summary.num_frames,
                seconds=round(summary.seconds, 1),
            )
        return summary

    def _attempt(
        self,
        source: Source,
        job: Job,
        work: Callable[[Job, RunProgress], UpscaleSettings],
        progress: RunProgress,
    ) -> Outcome:
        started = time.monotonic()
        try:
            settings = work(job, progress)
        except Exception as error:
            if self._is_alone:
                raise
            return Outcome(source.path, job.output, "failed", error)
        seconds = {**progress.files[progress.index].seconds, "total": time.monotonic() - started}
        return Outcome(source.path, job.output, "done", job=job, settings=settings, seconds=seconds)


def _file_work(job: Job) -> FileWork:
    height, width = job.settings.target_size(*job.size)
    return FileWork(str(job.info.path), job.num_frames, height * width, job.settings.num_inference_steps)


def _report(outcome: Outcome, progress: RunProgress) -> None:
    files = {"input": str(outcome.source), "output": str(outcome.output)}
    if outcome.status == "done":
        assert outcome.job is not None
        progress.result(str(outcome.output))
        seconds = {stage: round(value, 2) for stage, value in outcome.seconds.items()}
        progress.event("done", **files, num_frames=outcome.job.num_frames, seconds=seconds)
    elif outcome.status == "skipped":
        progress.say(f"skipped: {outcome.source}: {outcome.output} exists")
        progress.event("skipped", **files)
    else:
        progress.say(f"failed: {outcome.source}: {outcome.reason}")
        progress.event("failed", **files, reason=outcome.reason)
