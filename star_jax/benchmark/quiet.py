"""Pauses other work on the machine while something is timed, so that a GPU may be shared with a training."""

import contextlib
import contextvars
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from star_jax.errors import InputError

_SETTLE_SECONDS = 0.3  # what was given to the device before the pause ends in this time
_paused_groups: contextvars.ContextVar[str | None] = contextvars.ContextVar("paused_groups", default=None)


@contextlib.contextmanager
def pausing(file: str | None) -> Iterator[None]:
    """Within it, `quiet` pauses the process groups that `file` names, one number a line.

    Raises:
      InputError: the file cannot be read, or holds something else.
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
    """Stops the process groups of `pausing`, and lets them go on afterwards.

    The file is locked meanwhile: two benchmarks that name the same file, and each other, measure in turn.
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
            f"cannot read process groups from {file}: {reason}; write one group's number on each line"
        ) from error


def _signal(group: int, which: signal.Signals) -> bool:
    """Whether the group is still there."""
    try:
        os.killpg(group, which)
    except ProcessLookupError:
        return False
    return True
