"""Requests to stop a run: SIGTERM with one process, JAX's notice of preemption with several."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax

from star_jax.train.checkpoints import TrainCheckpoints


@contextlib.contextmanager
def stop_requests(checkpoints: TrainCheckpoints) -> Iterator[Callable[[int], bool]]:
    """Yields a function that tells, equally in every process, whether the run must save and stop after a step.

    With several processes, JAX's handler of SIGTERM notifies all of them, so it is left in place. Python delivers
    signals to the main thread only, so in another thread nothing stops the run.
    """
    requested = False

    def note(*_: Any) -> None:
        nonlocal requested
        requested = True

    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield checkpoints.reached_preemption
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda step: requested
    finally:
        signal.signal(signal.SIGTERM, before)
