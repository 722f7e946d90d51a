"""Base class of the students of all rungs: the trained model's sizes, and captions as in upscaling."""

from typing import Any

import jax
import numpy as np

from star_jax.config import ArchitectureConfig
from star_jax.train.config import ModelConfig
from star_jax.train.distill.config import DistillExperiment
from star_jax.train.star.objective import StarObjective

Tree = dict[str, Any]
Batch = dict[str, jax.Array]


class StudentObjective(StarObjective):
    """`StarObjective` with another loss; see `star_jax.train.objective.Objective`.

    Args:
      config: an experiment with a group `distill`.

    Raises:
      InputError: the networks do not support the data's sizes, or the checkpoint does not fit.
    """

    rung: Any  # a `RungConfig`

    def __init__(self, config: DistillExperiment):
        self.rung = config.distill
        self.experiment = config
        super().__init__(config.model, config.diffusion, config.data, config.train)

    def sizes(self, model: ModelConfig) -> ArchitectureConfig:
        return self.rung.sizes(super().sizes(model))

    def prepare_batch(self, host_batch: dict[str, Any]) -> dict[str, np.ndarray]:
        """Appends to captions the quality words that upscaling appends to prompts."""
        if self.model.has_text and not self.batches.latents:
            texts = [text + self.rung.positive_prompt for text in host_batch["text"]]
            host_batch = {**host_batch, "text": texts}
        return super().prepare_batch(host_batch)
