"""What the training loop asks of a training task."""

from pathlib import Path
from typing import Any, Protocol

import jax

Tree = dict[str, Any]


class Objective(Protocol):
    """One task: which weights it trains, what a batch is, and its loss.

    Parameter trees are keyed by the model's components. Methods that take only shapes work without memory and
    without a device.
    """

    def abstract_params(self) -> tuple[Tree, Tree]:
        """Shapes of (trainable weights, float32; frozen weights, compute dtype), without shardings."""

    def load(self, abstract_trainable: Tree, abstract_frozen: Tree) -> tuple[Tree, Tree]:
        """Reads both trees from the initial checkpoint, placed by the shardings of the given leaves."""

    def prepare_batch(self, host_batch: dict[str, Any]) -> dict[str, Any]:
        """Host side: a batch of the loader -> arrays for `loss`, the batch on the first axis of each."""

    def abstract_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of what `prepare_batch` returns for that many samples."""

    def loss(
        self, trainable: Tree, frozen: Tree, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean loss over the batch and scalar metrics; pure, differentiable in `trainable`.

        Every draw is folded in from `key`, which is the step's.
        """

    def validate(
        self, trainable: Tree, frozen: Tree, batches: list[dict[str, Any]], image_path: Path | None
    ) -> dict[str, float]:
        """Metrics over prepared batches that do not change; writes a picture to `image_path` if there is one."""
