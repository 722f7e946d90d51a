"""The log of a run's steps: means of metrics, speed, and the figures of validations."""

import contextlib
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from star_jax.train.config import TrainConfig
from star_jax.train.metrics import MetricWindow, MultiWriter, create_writer
from star_jax.train.speed import Speed


class StepLog(contextlib.AbstractContextManager):
    """Collects the metrics of steps and writes a line every `train.log_every_steps`; only process 0 writes.

    Args:
      root: work directory.
      config: has the number of steps between two lines.
      first_step: number of steps done so far.
      saved: value of `state` in the checkpoint from which the run resumes; empty for a new run.
      speed: measures the steps.
    """

    def __init__(
        self,
        root: epath.Path,
        config: TrainConfig,
        first_step: int,
        saved: Mapping[str, Any],
        speed: Speed,
    ):
        self._config, self._speed = config, speed
        self._window = MetricWindow(saved.get("window"))
        is_first = jax.process_index() == 0
        self._writer = create_writer(root, first_step, config.wandb) if is_first else MultiWriter([])

    def add(self, step: int, metrics: Mapping[str, float] | None, seconds: float, waited: float) -> None:
        """Adds a step.

        Args:
          step: number of steps done, including this one.
          metrics: metrics of the step; None if it was skipped.
          seconds: duration of the step.
          waited: seconds of these spent waiting for the batch.
        """
        if metrics is None:
            self._window.skip()
        else:
            self._window.add(metrics)
        self._speed.add(seconds, waited)
        if step % self._config.log_every_steps == 0 or step == self._config.num_steps:
            self.write(step, {**self._window.take(), **self._speed.take()})

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes figures of a step, such as those of a validation."""
        self._writer.write_scalars(step, scalars)
        self._writer.flush()

    def state(self) -> dict[str, Any]:
        """Sums since the last line, to be saved with a checkpoint."""
        return {"window": self._window.state()}

    def __exit__(self, *exception: Any) -> None:
        self._writer.close()
