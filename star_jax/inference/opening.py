"""Progress while inputs are opened: each video is decoded once, to find damage and irregular times."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

from star_jax.progress import SECONDS_BETWEEN_LINES, clock_text

_SECONDS_BETWEEN_DRAWS = 0.5


class Opening:
    """Shows how far a video is read: on a terminal in a line that is erased afterwards, in a log every ten seconds.

    Args:
      show: see `RunProgress`.
      count: number of inputs.
    """

    def __init__(self, show: str, count: int):
        self._show, self._count, self._number = show, count, 0
        self._is_line = show == "auto" and sys.stderr.isatty()
        self._name, self._start, self._last = "", 0.0, 0.0

    @contextlib.contextmanager
    def of(self, path: Path) -> Iterator[None]:
        """Shows the progress of one input until the block ends."""
        self._name, self._number = str(path), self._number + 1
        self._start = self._last = monotonic()
        try:
            yield
        finally:
            if self._is_line and self._last > self._start:
                print("\r\033[K", end="", file=sys.stderr, flush=True)

    def advance(self, done: int, total: int) -> None:
        """Notes that `done` of the current input's `total` frames are read."""
        now = monotonic()
        if now - self._last < (_SECONDS_BETWEEN_DRAWS if self._is_line else SECONDS_BETWEEN_LINES):
            return
        self._last, spent = now, now - self._start
        left = spent / done * max(0, total - done)
        if self._show == "json":
            content = {"file": self._number, "files": self._count, "input": self._name}
            content |= {"stage_frames": done, "num_frames": total, "seconds_left": round(left, 1)}
            print(json.dumps({"event": "opening", **content}), flush=True)
        elif self._show == "auto":
            of = f"file {self._number} of {self._count}, " if self._count > 1 else ""
            text = f"{of}{self._name}: checking, {100 * done // max(1, total)}%, {clock_text(left)} left"
            print(
                f"\r\033[K{text}" if self._is_line else text,
                end="" if self._is_line else "\n",
                file=sys.stderr,
            )
            sys.stderr.flush()
