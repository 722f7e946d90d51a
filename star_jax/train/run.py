"""Trains STAR from a configuration, as `star-jax train` does."""

import dataclasses
import os
import tempfile

from star_jax.init.checkpoint import fresh_checkpoint
from star_jax.parallel.mesh import make_mesh
from star_jax.parallel.peaks import device_peak_tflops
from star_jax.train.config import ExperimentConfig
from star_jax.train.experiments import make_objective
from star_jax.train.loop import Outcome
from star_jax.train.loop import train as run_loop
from star_jax.train.operations import step_flops
from star_jax.train.rehearsal import rehearse as run_rehearsal
from star_jax.train.workdir import absolute, has_checkpoint, held_workdir


def train(
    config: ExperimentConfig,
    workdir: str | os.PathLike,
    *,
    allow_changed_config: bool = False,
    quiet: bool = False,
) -> Outcome:
    """Trains the ControlNet and LIEM; the same call resumes from the newest checkpoint of `workdir`.

    Args:
      config: see `star_jax.train.config`. If it names no checkpoint, the run begins with fresh weights.
      workdir: folder of checkpoints, metrics and pictures; a path, gs://... or s3://...
      allow_changed_config: resume although `workdir` was begun with other values.
      quiet: show no progress.

    Returns:
      The last step that was done, and whether the run is finished.

    Raises:
      InputError: the configuration does not fit the devices, the data or `workdir`.
      RunError: the loss is not finite, the data ended or is bad, or the disk is full.
    """
    make_mesh(config.mesh)  # rejects a wrong mesh before fresh weights are made
    with held_workdir(workdir):
        config = _with_checkpoint(config, workdir)
        objective = make_objective(config)
        # Counting takes a while, so it is done only if the device's peak is known.
        flops = None if device_peak_tflops() is None else step_flops(objective, config.train.batch_size)
        return run_loop(
            objective,
            config,
            workdir,
            flops_per_step=flops,
            allow_changed_config=allow_changed_config,
            quiet=quiet,
        )


def rehearse(config: ExperimentConfig, workdir: str | os.PathLike) -> str:
    """Reports what `train` will do, from two trial steps that are discarded; nothing is written to `workdir`.

    Returns:
      A report of several lines: data, batch, weights, devices, memory, step, checkpoint, times.

    Raises:
      InputError: see `train`.
    """
    make_mesh(config.mesh)
    with tempfile.TemporaryDirectory() as folder:
        fresh = config.model.checkpoint is None and not has_checkpoint(absolute(workdir))
        config = _with_checkpoint(config, folder if fresh else workdir)
        objective = make_objective(config)
        flops = None if device_peak_tflops() is None else step_flops(objective, config.train.batch_size)
        return run_rehearsal(objective, config, workdir, flops)


def _with_checkpoint(config: ExperimentConfig, workdir: str | os.PathLike) -> ExperimentConfig:
    """The configuration with a checkpoint; one of fresh weights is made if the configuration names none."""
    if config.model.checkpoint is not None:
        return config
    directory = fresh_checkpoint(
        absolute(workdir) / "initial",
        config.model.star_config(),
        config.train.seed,
        vae=config.model.vae_checkpoint,
        renew=not has_checkpoint(absolute(workdir)),
    )
    model = dataclasses.replace(config.model, checkpoint=os.fspath(directory))
    return dataclasses.replace(config, model=model)
