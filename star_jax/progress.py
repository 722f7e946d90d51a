"""Progress of long work on stderr: a bar on a terminal, or a plain line every few seconds in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from star_jax.files import bytes_text

SECONDS_BETWEEN_LINES = 10.0


class Reporter(Protocol):
    """Counter that `progress` yields."""

    def advance(self, n: int = 1) -> None:
        """Counts `n` more units as done."""


@contextmanager
def progress(description: str, total: int, unit: str = "it", *, quiet: bool = False) -> Iterator[Reporter]:
    """Shows the progress of a piece of work: percentage, count, time spent and time left.

    A terminal shows a bar. Anything else (a log file, a pipe) gets a line about every 10 seconds and one at the
    end, without control characters. Nothing is written to standard output.

    Args:
        description: name of the work, such as "Upscaling panda.mp4".
        total: total number of units of work.
        unit: name of a unit, in the plural; `bytes` are shown as MiB or GiB.
        quiet: show nothing.
    """
    if quiet:
        yield _Silent()
    elif sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            DownloadColumn(binary_units=True)
            if unit == "bytes"
            else TextColumn(f"{{task.completed:.0f}}/{{task.total:.0f}} {unit}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        # A step may take minutes. By default rich forgets speeds older than 30 s, and then shows no time left.
        with Progress(*columns, console=Console(stderr=True), speed_estimate_period=1800) as bar:
            yield _Bar(bar, bar.add_task(description, total=total))
    else:
        lines = _Lines(description, total, unit)
        yield lines
        lines.finish()


class _Silent:
    def advance(self, n: int = 1) -> None:
        """Shows nothing."""


class _Bar:
    def __init__(self, bar: Progress, task: TaskID):
        self._bar, self._task = bar, task

    def advance(self, n: int = 1) -> None:
        self._bar.advance(self._task, n)


class _Lines:
    def __init__(self, description: str, total: int, unit: str):
        self._description, self._total, self._unit = description, total, unit
        self._done = 0
        self._start = self._last = time.monotonic()

    def advance(self, n: int = 1) -> None:
        self._done += n
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LINES and 0 < self._done < self._total:
            self._last = now
            spent = now - self._start
            self._print(
                f"{clock_text(spent)} spent, {clock_text(spent / self._done * (self._total - self._done))} left"
            )

    def finish(self) -> None:
        self._print(f"done in {clock_text(time.monotonic() - self._start)}")

    def _print(self, times: str) -> None:
        share = 100 * self._done // max(1, self._total)
        done = f"{self._done}/{self._total} {self._unit}"
        if self._unit == "bytes":
            done = f"{bytes_text(self._done)} of {bytes_text(self._total)}"
        print(f"{self._description}: {share}% ({done}), {times}", file=sys.stderr, flush=True)


def clock_text(seconds: float) -> str:
    """Seconds as hours, minutes and seconds: `0:01:30`."""
    return str(timedelta(seconds=round(seconds)))
