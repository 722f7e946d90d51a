"""Records a range of steps for TensorBoard's profiler."""

import contextlib
from typing import Any

import jax
from etils import epath

from star_jax.train.config import TrainConfig


class ProfilerWindow(contextlib.AbstractContextManager):
    """Records train.profile_steps steps from train.profile_start_step on into WORKDIR/profile."""

    def __init__(self, config: TrainConfig, directory: epath.Path):
        self._first, self._count = config.profile_start_step, config.profile_steps
        self._directory, self._recording = directory, False

    def before_step(self, step: int) -> None:
        """Starts the recording if it is due; `step` is the number of steps done so far."""
        if self._count and step == self._first:
            jax.profiler.start_trace(str(self._directory))
            self._recording = True

    def after_step(self, step: int) -> None:
        """Ends the recording if it is due; `step` is the number of steps done, including this one."""
        if self._recording and step >= self._first + self._count:
            self.close()

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends the recording if it is still running."""
        if self._recording:
            jax.profiler.stop_trace()
            self._recording = False
