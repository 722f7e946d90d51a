"""Turns a finished run of a light decoder into a checkpoint directory of the model with the decoder."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from star_jax.checkpoints.directory import (
    component_metadata,
    create_checkpoint,
    load_component,
    load_provenance,
    read_config,
    save_component,
)
from star_jax.config import StarConfig
from star_jax.errors import InputError
from star_jax.models.light_decoder.decoder import COMPONENT
from star_jax.models.video_model import VideoModel
from star_jax.train.checkpoints import restore_weights
from star_jax.train.decoder.config import DecoderExperimentConfig
from star_jax.train.decoder.objective import DecoderObjective

CHECKPOINT = "checkpoint"  # below the work directory


def write_checkpoint_with_decoder(
    objective: DecoderObjective, config: DecoderExperimentConfig, workdir: str | os.PathLike
) -> Path:
    """Writes WORKDIR/checkpoint: all components of the model unchanged, and the decoder.

    The decoder's weights are the moving average if the run keeps one, in the dtype of the stored network.

    Returns:
      The checkpoint directory.

    Raises:
      InputError: the run has no checkpoint, or the model cannot have a light decoder.
      RunError: the disk is full.
    """
    source = config.model.checkpoint
    step, params = restore_weights(workdir, objective.abstract_params()[0], ema=bool(config.train.ema_decay))
    sizes = read_config(source)
    if not isinstance(sizes, StarConfig):
        raise InputError(
            f"preset {sizes.preset!r} ({sizes.architecture}) cannot have a light decoder; choose a STAR checkpoint"
        )
    sizes = dataclasses.replace(sizes, light_decoder=objective.sizes)
    provenance = load_provenance(source)
    provenance["components"][COMPONENT] = {
        "source": "star-jax train-decoder",
        "step": step,
        "config": dataclasses.asdict(config),
    }
    model, target = objective.model, Path(workdir) / CHECKPOINT
    with create_checkpoint(target, sizes, provenance, force=True) as partial:
        for name in model.components:
            if name != COMPONENT:
                save_component(partial, name, load_component(source, name, _as_stored(model, source, name)))
        dtype = _stored_dtype(source, model.network_components[0])
        save_component(partial, COMPONENT, jax.tree.map(lambda leaf: leaf.astype(dtype), params[COMPONENT]))
    return target


def _as_stored(model: VideoModel, source: str, name: str) -> Any:
    """A component's shapes, in the dtype of the checkpoint."""
    dtype = _stored_dtype(source, name)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), model.abstract(name))


def _stored_dtype(source: str, name: str) -> np.dtype:
    """The widest dtype among a component's stored leaves."""
    return np.result_type(*{leaf.dtype for leaf in component_metadata(source, name).values()})
