"""Interface between the training loop and a training task."""

from pathlib import Path
from typing import Any, Protocol

import jax

Tree = dict[str, Any]


class Objective(Protocol):
    """A training task: the weights that it trains, its batches, and its loss.

    Parameter trees are keyed by the model's components. The methods that return shapes need no memory and no
    device.
    """

    def abstract_params(self) -> tuple[Tree, Tree]:
        """Shapes of (trainable weights, float32; frozen weights, compute dtype), without shardings."""

    def load(self, abstract_trainable: Tree, abstract_frozen: Tree) -> tuple[Tree, Tree]:
        """Reads both trees from the initial checkpoint, placed by the shardings of the given leaves."""

    def prepare_batch(self, host_batch: dict[str, Any]) -> dict[str, Any]:
        """Turns a batch of the loader into arrays for `loss`, on the host; the first axis of each is the batch."""

    def abstract_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of the arrays that `prepare_batch` returns for `batch_size` samples."""

    def loss(
        self, trainable: Tree, frozen: Tree, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean loss over the batch, and scalar metrics; a pure function, differentiable in `trainable`.

        All random draws are derived from `key`, the key of the step.
        """

    def validate(
        self, trainable: Tree, frozen: Tree, batches: list[dict[str, Any]], image_path: Path | None
    ) -> dict[str, float]:
        """Metrics over a fixed set of prepared batches; also writes a picture unless `image_path` is None."""
