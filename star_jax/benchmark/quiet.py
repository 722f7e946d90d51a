"""Pauses other processes on the machine during timings, so that a GPU can be shared with a training run."""

import contextlib
import contextvars
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from star_jax.errors import InputError

_SETTLE_SECONDS = 0.3  # time for the device to finish the work of the paused processes
_paused_groups: contextvars.ContextVar[str | None] = contextvars.ContextVar("paused_groups", default=None)


@contextlib.contextmanager
def pausing(file: str | None) -> Iterator[None]:
    """A context in which `quiet` pauses the process groups in `file`, which has one ID per line.

    Raises:
      InputError: the file cannot be read, or a line is not a number.
    """
    if file is not None:
        _read_groups(file)
    token = _paused_groups.set(file)
    try:
        yield
    finally:
        _paused_groups.reset(token)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A context that stops the process groups of `pausing`, and continues them at the end.

    The file is locked meanwhile, so that two benchmarks with the same file take turns to measure.
    """
    file = _paused_groups.get()
    if file is None:
        yield
        return
    with open(file) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        groups = [group for group in _read_groups(file) if group != os.getpgrp()]
        try:
            stopped = [_signal(group, signal.SIGSTOP) for group in groups]
            if any(stopped):
                time.sleep(_SETTLE_SECONDS)
            yield
        finally:
            for group in groups:
                _signal(group, signal.SIGCONT)


def _read_groups(file: str) -> list[int]:
    try:
        return [int(line) for line in Path(file).read_text().split()]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a number on each line"
        raise InputError(
            f"cannot read process groups from {file}: {reason}; write the ID of one group on each line"
        ) from error


def _signal(group: int, which: signal.Signals) -> bool:
    """Sends a signal to a process group; False if the group no longer exists."""
    try:
        os.killpg(group, which)
    except ProcessLookupError:
        return False
    return True
