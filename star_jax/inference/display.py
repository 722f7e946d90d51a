"""Progress of upscales: one bar over all files and stages, lines in a log, or JSON for programs.

The share done is computed from rough costs of the stages, and the time left from the time that each stage has taken
in this run. Compilation counts for neither: it is shown while it lasts, and happens once for each size and length.
"""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn
from rich.text import Text

from star_jax.errors import InputError
from star_jax.progress import SECONDS_BETWEEN_LINES, clock_text

STAGES = {"read": "Reading", "encode": "Encoding", "sample": "Sampling", "decode": "Decoding"}
CHOICES = ("auto", "json", "none")
_COSTS = {
    "read": 0.002,
    "encode": 1.0,
    "sample": 4.0,
    "decode": 2.0,
}  # relative cost per frame; for `sample`, per frame and evaluation of the network
_SECONDS_BETWEEN_EVENTS = 0.5
_LONG_COMPILATION = 2.0  # seconds after which a compilation is shown


@dataclass
class FileWork:
    """The work for one file.

    Attributes:
      name: file name as the user gave it.
      num_frames: number of frames that are upscaled.
      pixels: number of pixels of an output frame.
      evaluations: number of evaluations of the network.
      done: number of frames done in each stage.
      seconds: seconds spent in each stage, without compilation.
      is_over: whether the file is done or has failed.
    """

    name: str
    num_frames: int
    pixels: int
    evaluations: int
    done: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    is_over: bool = False

    def cost(self, stage: str) -> float:
        """Relative cost of a frame in a stage."""
        return _COSTS[stage] * self.pixels * (self.evaluations if stage == "sample" else 1)


class RunProgress:
    """Progress of a run over several files.

    Args:
      files: the work for each file.
      show: `auto` (a bar on a terminal, lines elsewhere), `json` (lines on standard output) or `none`.

    Raises:
      InputError: `show` has another value.
    """

    def __init__(self, files: Sequence[FileWork], show: str = "auto"):
        if show not in CHOICES:
            raise InputError(f"progress is {show!r}; choose one of {', '.join(CHOICES)}")
        self.files, self.show = files, show
        self.index, self.stage = 0, ""
        self._start = self._last = time.monotonic()
        self._stage_seconds: dict[str, float] = {}
        self._stage_costs: dict[str, float] = {}
        self._compiling_since: float | None = None
        self._compiled = 0.0  # seconds of compiling since the last advance
        self._display: _Display = _Display()

    @contextlib.contextmanager
    def shown(self) -> Iterator["RunProgress"]:
        """Shows the run until the block ends."""
        jax.monitoring.register_event_duration_secs_listener(self._on_compilation)
        try:
            with _display(self) as self._display:
                yield self
        finally:
            self._display = _Display()
            jax.monitoring.unregister_event_duration_listener(self._on_compilation)

    def begin(self, index: int) -> None:
        """Starts the file with the given index."""
        self.index, self.stage, self._last, self._compiled = index, "", time.monotonic(), 0.0

    def load(self) -> None:
        """Shows that the model is being loaded."""
        self.stage = "load"

    def advance(self, stage: str, frames: float) -> None:
        """Notes that `frames` frames of the current file, in total, have passed a stage."""
        file, now = self.files[self.index], time.monotonic()
        seconds = max(0.0, now - self._last - self._compiled)
        gained = frames - file.done.get(stage, 0.0)
        file.done[stage] = frames
        file.seconds[stage] = file.seconds.get(stage, 0.0) + seconds
        if not self._compiled:  # otherwise the time includes tracing and loading, too
            self._stage_seconds[stage] = self._stage_seconds.get(stage, 0.0) + seconds
            self._stage_costs[stage] = self._stage_costs.get(stage, 0.0) + gained * file.cost(stage)
        self.stage, self._last, self._compiled = stage, now, 0.0
        self._display.advanced(is_last=frames >= file.num_frames)

    def done(self, stage: str) -> float:
        """Number of frames of the current file that have passed a stage."""
        return self.files[self.index].done.get(stage, 0.0)

    def end(self) -> None:
        """Notes that the current file is done or has failed, and will take no more time."""
        file = self.files[self.index]
        file.is_over = True
        self._display.ended(file)

    def say(self, text: str) -> None:
        """Prints a line for people; programs get events instead."""
        if self.show == "auto":
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Prints a warning, even with `none`; programs get an event."""
        if self.show == "json":
            self.event("warning", text=text)
        else:
            print(text, file=sys.stderr, flush=True)

    def result(self, text: str) -> None:
        """Prints the name of a complete file to standard output."""
        if self.show == "auto":
            print(text, flush=True)

    def event(self, event: str, **content: Any) -> None:
        """Prints a line of JSON for programs."""
        if self.show == "json":
            print(json.dumps({"event": event, **content}), flush=True)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def compiling(self) -> float:
        """Seconds for which a program has been compiling; 0 if no program is."""
        since = self._compiling_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def share(self) -> float:
        """Share of the whole run that is done, 0 to 1."""
        total = sum(file.num_frames * file.cost(stage) for file in self.files for stage in STAGES)
        left = sum(self._left(file, stage) for file in self.files for stage in STAGES)
        return 1 - left / total if total else 1.0

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds until the end of the run; None until a stage other than reading was timed."""
        known = [stage for stage, cost in self._stage_costs.items() if cost and stage != "read"]
        if not known:  # reading says nothing about the rest
            return None
        mean = sum(self._stage_seconds[stage] for stage in known) / sum(
            self._stage_costs[stage] for stage in known
        )
        seconds = 0.0
        for stage in STAGES:
            cost = self._stage_costs.get(stage, 0.0)
            speed = self._stage_seconds[stage] / cost if cost else mean
            seconds += speed * sum(self._left(file, stage) for file in self.files)
        return seconds

    @property
    def frames_per_second(self) -> float:
        """Frames per second, over all stages."""
        total = sum(file.num_frames for file in self.files)
        return total * self.share / max(self.elapsed, 1e-9)

    def snapshot(self) -> dict[str, Any]:
        """The state of the run, for programs."""
        file, left = self.files[self.index], self.seconds_left
        return {
            "file": self.index + 1,
            "files": len(self.files),
            "input": file.name,
            "stage": self.stage,
            "stage_frames": round(file.done.get(self.stage, 0.0), 2),
            "num_frames": file.num_frames,
            "share": round(self.share, 4),
            "seconds": round(self.elapsed, 1),
            "seconds_left": None if left is None else round(left, 1),
            "frames_per_second": round(self.frames_per_second, 3),
            "compiling": self._compiling_since is not None,
        }

    def title(self) -> str:
        """The current file and its stage."""
        file = self.files[self.index]
        number = f"file {self.index + 1} of {len(self.files)}, " if len(self.files) > 1 else ""
        stage = {**STAGES, "load": "loading the model"}.get(self.stage, "starting").lower()
        if self.compiling > _LONG_COMPILATION:
            stage = f"compiling for {clock_text(self.compiling)} (kept for the next run)"
        return f"{number}{file.name}: {stage}"

    def times(self) -> str:
        """Time spent and left, and the speed."""
        left = self.seconds_left
        known = "" if left is None else f", {clock_text(left)} left, {self.frames_per_second:.2g} frames/s"
        return f"{clock_text(self.elapsed)} spent{known}"

    def _left(self, file: FileWork, stage: str) -> float:
        frames = 0.0 if file.is_over else file.num_frames - file.done.get(stage, 0.0)
        return frames * file.cost(stage)

    def _on_compilation(self, event: str, duration_secs: float, **_: Any) -> None:
        if event.endswith("/jaxpr_to_mlir_module_duration"):  # the compiler runs next
            self._compiling_since = time.monotonic()
        elif event.endswith("/backend_compile_duration"):
            self._compiling_since = None
            self._compiled += duration_secs


class _Display:
    """Shows nothing; the base of the other displays."""

    def advanced(self, *, is_last: bool) -> None:
        """Called when the current file has advanced; `is_last` says whether a stage is complete."""

    def ended(self, file: FileWork) -> None:
        """Called when the current file is over."""


@contextlib.contextmanager
def _display(run: RunProgress) -> Iterator[_Display]:
    if run.show == "none":
        yield _Display()
    elif run.show == "json":
        display = _Json(run)
        with _every_second(display.tick):
            yield display
    elif sys.stderr.isatty():
        with Progress(
            _Column(run.title),
            BarColumn(),
            TaskProgressColumn(),
            _Column(run.times),
            console=Console(stderr=True),
        ) as bar:
            yield _Bar(run, bar)
    else:
        lines = _Lines(run)
        with _every_second(lines.tick):
            yield lines


class _Column(ProgressColumn):
    """Text that is computed whenever the bar is drawn."""

    def __init__(self, text: Callable[[], str]):
        super().__init__()
        self._text = text

    def render(self, task: Task) -> Text:
        """Computes the text."""
        del task
        return Text(self._text())


class _Bar(_Display):
    def __init__(self, run: RunProgress, bar: Progress):
        self._run, self._bar, self._task = run, bar, bar.add_task("", total=1.0)

    def advanced(self, *, is_last: bool) -> None:
        self._bar.update(self._task, completed=self._run.share)

    def ended(self, file: FileWork) -> None:
        self._bar.update(self._task, completed=self._run.share)


class _Lines(_Display):
    """Prints a line about every ten seconds, and one for each stage when a file is over."""

    def __init__(self, run: RunProgress):
        self._run, self._last = run, time.monotonic()

    def tick(self) -> None:
        """Called every second."""
        if time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            run = self._run
            print(f"{run.title()}, {100 * run.share:.0f}%, {run.times()}", file=sys.stderr, flush=True)

    def ended(self, file: FileWork) -> None:
        for stage, label in STAGES.items():
            if stage in file.done and stage != "read":
                share = round(100 * file.done[stage] / file.num_frames)
                count = f"{file.done[stage]:.0f}/{file.num_frames} frames"
                seconds = clock_text(file.seconds[stage])
                print(f"{label}: {share}% ({count}), done in {seconds}", file=sys.stderr, flush=True)


class _Json(_Display):
    """Prints an event after every advance, at most two per second, and at least one every ten seconds."""

    def __init__(self, run: RunProgress):
        self._run, self._last = run, 0.0

    def advanced(self, *, is_last: bool) -> None:
        if is_last or time.monotonic() - self._last >= _SECONDS_BETWEEN_EVENTS:
            self._write()

    def tick(self) -> None:
        """Called every second."""
        if time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._write()

    def _write(self) -> None:
        self._last = time.monotonic()
        self._run.event("progress", **self._run.snapshot())


@contextlib.contextmanager
def _every_second(call: Callable[[], None]) -> Iterator[None]:
    over = threading.Event()

    def loop() -> None:
        while not over.wait(1.0):
            call()

    thread = threading.Thread(target=loop, daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
