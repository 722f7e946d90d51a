"""Steps whose loss or gradient is not finite or too large: the run stops, or skips and counts them."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from star_jax.errors import RunError
from star_jax.train.checkpoints import TrainCheckpoints
from star_jax.train.config import TrainConfig

logger = logging.getLogger(__name__)


class BadSteps:
    """Judges every step before it is logged or saved.

    Args:
      config: has the largest norm of the gradient, and how many bad steps in a row are skipped (a bad step leaves
        the weights as they were).
      checkpoints: checkpoints of the run, to name the last good one.
      saved: value of `state` in the checkpoint from which the run resumes; empty for a new run.
    """

    def __init__(self, config: TrainConfig, checkpoints: TrainCheckpoints, saved: Mapping[str, Any]):
        self._config, self._checkpoints = config, checkpoints
        self.in_a_row: int = saved.get("skipped_in_a_row", 0)

    def state(self) -> dict[str, int]:
        """Number of steps in a row that were just skipped, to be saved in a checkpoint."""
        return {"skipped_in_a_row": self.in_a_row} if self.in_a_row else {}

    def is_bad(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Whether this step was skipped.

        Raises:
          RunError: the step is bad, and as many in a row as allowed were skipped already.
        """
        reason = self._reason(metrics)
        if reason is None:
            self.in_a_row = 0
            return False
        self.in_a_row += 1
        if self.in_a_row > self._config.skip_bad_steps:
            raise self._stop(step, reason)
        logger.warning("skipped step %d: %s", step, reason)
        return True

    def _reason(self, metrics: Mapping[str, float]) -> str | None:
        for name in ("loss", "grad_norm"):
            if not math.isfinite(metrics[name]):
                return f"{name} is {metrics[name]}"
        largest = self._config.largest_grad_norm
        if largest is not None and metrics["grad_norm"] > largest:
            return f"grad_norm is {metrics['grad_norm']:.4g}, above train.largest_grad_norm={largest:g},"
        return None

    def _stop(self, step: int, reason: str) -> RunError:
        self._checkpoints.wait()
        good = max(self._checkpoints.steps(), default=None)
        kept = (
            "no checkpoint was saved before it" if good is None else f"the checkpoint of step {good} is good"
        )
        skipped = self._config.skip_bad_steps
        after = f" after {skipped} skipped steps" if skipped else ""
        return RunError(
            f"{reason} at step {step}{after}; {kept}. Skip such steps with train.skip_bad_steps, or lower "
            "optimizer.learning_rate or change train.seed, and run again with --allow-changed-config"
        )
