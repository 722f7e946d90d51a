"""Trains a light decoder from a configuration, as `star-jax train-decoder` does."""

import dataclasses
import os
from pathlib import Path

from star_jax.parallel.peaks import device_peak_tflops
from star_jax.train.decoder.checkpoint import write_checkpoint_with_decoder
from star_jax.train.decoder.clips import TRAIN, VALIDATION, make_clips
from star_jax.train.decoder.config import DecoderExperimentConfig
from star_jax.train.decoder.objective import DecoderObjective
from star_jax.train.loop import Outcome, train
from star_jax.train.operations import step_flops


def train_decoder(
    config: DecoderExperimentConfig,
    workdir: str | os.PathLike,
    *,
    allow_changed_config: bool = False,
    quiet: bool = False,
) -> tuple[Outcome, Path | None]:
    """Makes the clips, then trains a light decoder on them; the same call resumes where it stopped.

    Args:
      config: see `star_jax.train.decoder.config`.
      workdir: directory of clips, checkpoints, metrics and pictures.
      allow_changed_config: resume although `workdir` was begun with other values.
      quiet: show no progress.

    Returns:
      How the run ended, and the checkpoint directory, which is None until all steps are done.

    Raises:
      InputError: the configuration does not fit the devices, the data or `workdir`.
      RunError: the loss is not finite, the data ended or is bad, or the disk is full.
    """
    root = Path(workdir)
    objective = DecoderObjective(config, root / TRAIN)
    make_clips(config, root, quiet=quiet)
    on_clips = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, validation_source=str(root / VALIDATION)),
        data=dataclasses.replace(config.data, source=str(root / TRAIN)),
    )
    flops = None if device_peak_tflops() is None else step_flops(objective, config.train.batch_size)
    outcome = train(
        objective,
        on_clips,
        root,
        flops_per_step=flops,
        allow_changed_config=allow_changed_config,
        quiet=quiet,
    )
    return outcome, write_checkpoint_with_decoder(objective, config, root) if outcome.finished else None
