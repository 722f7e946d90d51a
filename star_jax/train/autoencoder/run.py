"""Trains an autoencoder from a configuration, as `star-jax train-vae` does."""

import os
from pathlib import Path

from star_jax.train.autoencoder.checkpoint import write_vae_checkpoint
from star_jax.train.autoencoder.config import VaeExperimentConfig
from star_jax.train.autoencoder.objective import VaeObjective
from star_jax.train.loop import Outcome, train


def train_autoencoder(
    config: VaeExperimentConfig,
    workdir: str | os.PathLike,
    *,
    allow_changed_config: bool = False,
    quiet: bool = False,
) -> tuple[Outcome, Path | None]:
    """Trains an autoencoder; the same call resumes from the newest checkpoint of `workdir`.

    Args:
      config: see `star_jax.train.autoencoder.config`.
      workdir: directory of checkpoints, metrics and pictures.
      allow_changed_config: resume although `workdir` was begun with other values.
      quiet: show no progress.

    Returns:
      How the run ended, and the checkpoint directory, which is None until all steps are done.

    Raises:
      InputError: the configuration does not fit the devices, the data or `workdir`.
      RunError: the loss is not finite, the data ended or is bad, or the disk is full.
    """
    objective = VaeObjective(config)
    outcome = train(objective, config, workdir, allow_changed_config=allow_changed_config, quiet=quiet)
    return outcome, write_vae_checkpoint(objective, config, workdir) if outcome.finished else None
