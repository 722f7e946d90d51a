"""The initial weights of a training run."""

import os
from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.checkpoints.directory import checkpoint_path, load_component, read_config
from star_jax.checkpoints.trees import flatten, unflatten
from star_jax.config import ArchitectureConfig, LiemConfig
from star_jax.convert.lora_file import read_lora
from star_jax.errors import InputError
from star_jax.models.architectures import build_model
from star_jax.models.lora import LORA, fresh_lora, lora_scale, lora_shapes
from star_jax.models.video_model import VideoModel
from star_jax.train.config import ModelConfig
from star_jax.train.state import merge_params, split_trainable

Tree = dict[Any, Any]


def model_sizes(model: ModelConfig) -> ArchitectureConfig:
    """Sizes of a run's networks: the preset's or the checkpoint's, with the run's LIEM.

    Raises:
      InputError: the checkpoint does not exist or has another preset.
    """
    if model.checkpoint is None:
        return model.star_config()
    liem = LiemConfig(model.liem_spatial, model.liem_temporal, model.liem_position)
    return read_config(model.checkpoint, expect_preset=model.preset).with_liem(liem)


def require_checkpoint(checkpoint: str | None) -> str:
    """Returns the checkpoint.

    Raises:
      InputError: it is None.
    """
    if checkpoint is None:
        raise InputError("model.checkpoint is None; set it to a directory made by star-jax convert")
    return checkpoint


def trained_and_frozen(
    model: VideoModel, config: ModelConfig, components: Iterable[str] | None = None
) -> tuple[Tree, Tree]:
    """Shapes of (trained weights, float32; frozen weights, compute dtype) of a run.

    With `lora_rank`, the low-rank updates of all networks are trained, as component `lora`, and every weight is
    frozen; otherwise the weights that `VideoModel.is_trainable` selects are trained.
    """
    params = model.abstract_params(components)
    if config.lora_rank:
        networks = {name: params[name] for name in model.network_components}
        return {LORA: lora_shapes(networks, config.lora_rank)}, params
    trained, frozen = split_trainable(params, partial(model.is_trainable, train_base=config.train_base))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), trained), frozen


def start_lora(config: ModelConfig, abstract: Tree, seed: int) -> Tree:
    """The initial low-rank updates of a run, placed by the shardings of the given leaves.

    Raises:
      InputError: the file does not fit the networks, or has another alpha.
    """
    if config.lora is None:
        updates = fresh_lora(abstract, seed)
    else:
        updates, alpha = read_lora(config.lora, abstract)
        if lora_scale(config.lora_rank, alpha) != lora_scale(config.lora_rank, config.lora_alpha):
            raise InputError(f"{config.lora} was trained with another alpha; set model.lora_alpha={alpha:g}")
    return jax.tree.map(lambda leaf, to: jax.device_put(leaf, to.sharding), updates, abstract)


def load_weights(checkpoint: str | os.PathLike, trainable: Tree, frozen: Tree) -> tuple[Tree, Tree]:
    """Reads the leaves of two trees of shapes by component, each in its dtype and at its sharding.

    Raises:
      InputError: the checkpoint lacks a weight, or has one of another shape.
    """
    wanted = merge_params(trainable, frozen)
    leaves = flatten({name: _load(checkpoint, name, wanted[name]) for name in wanted})
    trained, left = (
        unflatten({path: leaves[path] for path in flatten(tree)}) for tree in (trainable, frozen)
    )
    return trained, left


def _load(checkpoint: str | os.PathLike, name: str, wanted: Tree) -> Tree:
    """Loads a component; LIEM weights that an ablation leaves out are read and dropped."""
    stored = flatten(build_model(read_config(checkpoint)).abstract(name))
    wanted = flatten(wanted)
    if missing := [path for path in wanted if path not in stored]:
        raise InputError(
            f"{name} of {checkpoint} has no leaf {missing[0]} (and {len(missing) - 1} more are missing): it was "
            "made with another model.liem_position or without LIEM; choose the same LIEM settings, or convert again"
        )
    loaded = flatten(load_component(checkpoint, name, unflatten({**stored, **wanted})))
    return unflatten({path: loaded[path] for path in wanted})


def prompt_embedding(model: VideoModel, checkpoint: str | os.PathLike, prompt: str) -> np.ndarray:
    """Text embedding of a prompt, float16 [tokens, width], to go with prepared latents.

    Raises:
      InputError: the model reads no text, or the checkpoint lacks the text encoder or the tokenizer.
    """
    model = build_model(model.config)  # in float32
    if not model.has_text:
        raise InputError(
            f"{checkpoint} (preset {model.config.preset!r}) has no text encoder; give a checkpoint that has one"
        )
    params = {name: load_component(checkpoint, name, model.abstract(name)) for name in model.text_components}
    ids = model.tokenize(model.load_tokenizer(checkpoint_path(checkpoint)), [prompt])
    return np.asarray(jax.jit(model.encode_text)(params, ids)[0]).astype(np.float16)
