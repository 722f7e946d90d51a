"""Turns a finished autoencoder run into a checkpoint directory from which the networks' training starts."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax

from star_jax.checkpoints.directory import create_checkpoint, save_component
from star_jax.init.component import fresh_component
from star_jax.parallel.mesh import make_mesh
from star_jax.train.autoencoder.config import VaeExperimentConfig
from star_jax.train.autoencoder.objective import VaeObjective
from star_jax.train.batches import TrainBatches
from star_jax.train.checkpoints import restore_weights

CHECKPOINT = "checkpoint"  # below the work directory


def write_vae_checkpoint(
    objective: VaeObjective, config: VaeExperimentConfig, workdir: str | os.PathLike
) -> Path:
    """Writes WORKDIR/checkpoint: the trained autoencoder, the latents' scale, and a fresh UNet and ControlNet.

    Weights are the moving average if the run keeps one. The scale is measured on the validation clips.

    Returns:
      The checkpoint directory.

    Raises:
      InputError: the run has no checkpoint.
      RunError: the disk is full.
    """
    ema = bool(config.train.ema_decay)
    step, params = restore_weights(workdir, objective.abstract_params()[0], ema=ema)
    mesh = make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        batches = TrainBatches(objective, config.data, config.train, mesh).validation()
        scores = objective.validate(params, {}, batches, None)
        factor = objective.scaling_factor(params, batches)
    model, sizes = objective.model, objective.sizes.with_scaling_factor(factor)
    provenance: dict[str, Any] = {
        "preset": sizes.preset,
        "components": {
            name: {"source": "star-jax train-vae", "step": step, **scores}
            for name in model.autoencoder_components
        },
        "config": dataclasses.asdict(config),
    }
    target = Path(workdir) / CHECKPOINT
    with create_checkpoint(target, sizes, provenance, force=True) as partial:
        for name in model.autoencoder_components:
            save_component(partial, name, params[name])
        for name in model.network_components:
            save_component(partial, name, fresh_component(model, name, config.train.seed))
            provenance["components"][name] = {"source": "fresh", "seed": config.train.seed}
    return target
