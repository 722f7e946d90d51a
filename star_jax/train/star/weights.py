"""The weights a training run starts from."""

import os
from typing import Any

import jax
import numpy as np

from star_jax.checkpoints.directory import checkpoint_path, load_component, read_config
from star_jax.checkpoints.trees import flatten, unflatten
from star_jax.config import ArchitectureConfig, LiemConfig
from star_jax.errors import InputError
from star_jax.models.architectures import build_model
from star_jax.models.video_model import VideoModel
from star_jax.train.config import ModelConfig
from star_jax.train.state import merge_params

Tree = dict[Any, Any]


def model_sizes(model: ModelConfig) -> ArchitectureConfig:
    """Sizes of a run's networks: the preset's or the checkpoint's, with the run's LIEM.

    Raises:
      InputError: the checkpoint is another preset's, or there is none at that place.
    """
    if model.checkpoint is None:
        return model.star_config()
    liem = LiemConfig(model.liem_spatial, model.liem_temporal, model.liem_position)
    return read_config(model.checkpoint, expect_preset=model.preset).with_liem(liem)


def require_checkpoint(checkpoint: str | None) -> str:
    """The checkpoint of a run that starts from one.

    Raises:
      InputError: there is none.
    """
    if checkpoint is None:
        raise InputError("model.checkpoint is None; set it to a directory that star-jax convert made")
    return checkpoint


def load_weights(checkpoint: str | os.PathLike, trainable: Tree, frozen: Tree) -> tuple[Tree, Tree]:
    """Reads the leaves of two trees of shapes by component, each in its dtype and at its sharding.

    Raises:
      InputError: the checkpoint lacks a weight, or holds one of another shape.
    """
    wanted = merge_params(trainable, frozen)
    leaves = flatten({name: _load(checkpoint, name, wanted[name]) for name in wanted})
    trained, left = (
        unflatten({path: leaves[path] for path in flatten(tree)}) for tree in (trainable, frozen)
    )
    return trained, left


def _load(checkpoint: str | os.PathLike, name: str, wanted: Tree) -> Tree:
    """A component; LIEM weights that the run leaves out (an ablation's) are read and dropped."""
    stored = flatten(build_model(read_config(checkpoint)).abstract(name))
    wanted = flatten(wanted)
    if missing := [path for path in wanted if path not in stored]:
        raise InputError(
            f"{name} of {checkpoint} has no leaf {missing[0]} (and {len(missing) - 1} more are missing): it was "
            "made with another model.liem_position or without LIEM; set those as it was made, or convert it again"
        )
    loaded = flatten(load_component(checkpoint, name, unflatten({**stored, **wanted})))
    return unflatten({path: loaded[path] for path in wanted})


def empty_prompt_embedding(model: VideoModel, checkpoint: str | os.PathLike) -> np.ndarray:
    """Text embedding of '', float16 [tokens, width], for prepared latents whose caption is dropped.

    Raises:
      InputError: the model reads no text, or the checkpoint lacks the text encoder or the tokenizer.
    """
    model = build_model(model.config)  # in float32
    if not model.has_text:
        raise InputError(
            f"{checkpoint} (preset {model.config.preset!r}) has no text encoder; give one that has"
        )
    params = {name: load_component(checkpoint, name, model.abstract(name)) for name in model.text_components}
    ids = model.tokenize(model.load_tokenizer(checkpoint_path(checkpoint)), [""])
    return np.asarray(jax.jit(model.encode_text)(params, ids)[0]).astype(np.float16)
