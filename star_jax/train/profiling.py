"""How long steps take, and a window of them recorded for TensorBoard's profiler."""

import contextlib
from typing import Any

import jax
from etils import epath

from star_jax.train.config import TrainConfig


class StepTimes:
    """Mean times of steps between two lines of the log, without compilation and validation."""

    def __init__(self):
        self._count, self._seconds, self._waited = 0, 0.0, 0.0

    def add(self, seconds: float, waited: float) -> None:
        """Counts a step: its seconds, and how many of them it waited for its batch."""
        self._count += 1
        self._seconds += seconds
        self._waited += waited

    def take(self) -> tuple[float, float]:
        """Mean seconds per step since the last call, and how many of them a step waited for data."""
        means = self._seconds / self._count, self._waited / self._count
        self._count, self._seconds, self._waited = 0, 0.0, 0.0
        return means


class ProfilerWindow(contextlib.AbstractContextManager):
    """Records the steps that train.profile_start_step and train.profile_steps name into WORKDIR/profile."""

    def __init__(self, config: TrainConfig, directory: epath.Path):
        self._first, self._count = config.profile_start_step, config.profile_steps
        self._directory, self._recording = directory, False

    def before_step(self, step: int) -> None:
        """Called with the number of steps done so far."""
        if self._count and step == self._first:
            jax.profiler.start_trace(str(self._directory))
            self._recording = True

    def after_step(self, step: int) -> None:
        """Called with the number of steps done, this one included."""
        if self._recording and step >= self._first + self._count:
            self.close()

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends a window that is still open."""
        if self._recording:
            jax.profiler.stop_trace()
            self._recording = False
