"""Watchdog of the loop: it ends a run that hangs, so that the run can be started again."""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from typing import Any

from etils import epath

from star_jax.files import is_url
from star_jax.parallel.peers import stop_all
from star_jax.train.stages import Stages

_HINTS = {
    "waiting for data": "a video may hang its decoder, or a disk or bucket its reader",
    "computing": "another process or device may hang",
    "saving": "the disk or bucket of --workdir may hang",
}


class StallWatch(contextlib.AbstractContextManager):
    """Ends the process if a stage of the loop takes too long, because a hanging call cannot be interrupted.

    The stack of every thread is written to WORKDIR/logs/stalled_PID.txt.

    Args:
      root: work directory.
      seconds: longest time that a stage may take; 0 disables the watchdog.
      stages: the loop's current stage.
    """

    def __init__(self, root: epath.Path, seconds: float, stages: Stages):
        self._root, self._seconds, self._stages = root, seconds, stages
        self._ended = threading.Event()

    def __enter__(self) -> "StallWatch":
        if self._seconds:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(min(5.0, self._seconds / 4)):
            if time.monotonic() - self._stages.since > self._seconds and not self._ended.is_set():
                self._end()

    def _end(self) -> None:
        stage, step = self._stages.current
        hint = f" ({_HINTS[stage]})" if stage in _HINTS else ""
        message = (
            f"no progress for {self._seconds:g} s (train.stall_seconds) while {stage}, step {step}{hint}; run the "
            "same command again: it resumes at the newest checkpoint"
        )
        print(f"star-jax: {message}", file=sys.stderr, flush=True)
        if not is_url(self._root):
            with contextlib.suppress(OSError):
                folder = self._root / "logs"
                folder.mkdir(parents=True, exist_ok=True)
                with open(folder / f"stalled_{os.getpid()}.txt", "w") as file:
                    faulthandler.dump_traceback(file, all_threads=True)
        stop_all(message)
        os._exit(1)
