"""Turns a work directory into a checkpoint directory for upscaling: frozen and trained weights together.

A run of low-rank updates gives a directory of merged weights, or a .safetensors file of the updates alone.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax

from star_jax.checkpoints.directory import create_checkpoint, load_provenance
from star_jax.checkpoints.trees import flatten
from star_jax.convert.lora_file import LORA_SUFFIX, write_lora
from star_jax.errors import InputError
from star_jax.models.architectures import build_model
from star_jax.models.lora import LORA, lora_scale
from star_jax.models.video_model import VideoModel
from star_jax.train.checkpoints import restore_weights
from star_jax.train.config import ExperimentConfig, ModelConfig
from star_jax.train.distill.config import DistillExperiment, DualStreamExperiment
from star_jax.train.experiments import make_objective, read_experiment_config
from star_jax.train.star.merge import write_over
from star_jax.train.star.weights import model_sizes, require_checkpoint, trained_and_frozen

Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Assembled:
    """Description of an assembled checkpoint.

    Attributes:
      step: step of the training checkpoint.
      ema: whether the weights are the moving average.
      trained: number of trained weights.
    """

    step: int
    ema: bool
    trained: int


def assemble(
    workdir: str | os.PathLike,
    target: str | os.PathLike,
    *,
    step: int | None = None,
    ema: bool | None = None,
    base: str | os.PathLike | None = None,
    dtype: str | None = None,
    force: bool = False,
) -> Assembled:
    """Writes a checkpoint directory from a run of `star-jax train`, or a file of its low-rank updates.

    Leaves are copied one by one, so that memory holds the trained weights and little more.

    Args:
      workdir: work directory of the run.
      target: directory, which appears when it is complete, or FILE.safetensors for low-rank updates alone.
      step: step of the training checkpoint; the newest by default.
      ema: whether to take the moving average; by default, if the run keeps one.
      base: checkpoint from which the run started, if it is no longer at model.checkpoint.
      dtype: dtype of all weights, such as bfloat16; by default trained weights are float32, and the others keep
        theirs.
      force: replace an existing checkpoint directory or file.

    Raises:
      InputError: there is no such run, step or base, the run kept no average, or `target` exists.
      RunError: the disk is full.
    """
    config = read_experiment_config(workdir)
    base = base or require_checkpoint(config.model.checkpoint)
    if ema and not config.train.ema_decay:
        raise InputError(f"{workdir} has no moving average (train.ema_decay is 0); leave out --ema")
    ema = bool(config.train.ema_decay) if ema is None else ema
    sizes = model_sizes(dataclasses.replace(config.model, checkpoint=os.fspath(base)))
    model = build_model(sizes)
    trained, _ = trained_and_frozen(model, config.model)
    chosen, weights = restore_weights(workdir, _saved(config, base, trained), step=step, ema=ema)
    weights = {name: weights[name] for name in trained}
    count = sum(leaf.size for leaf in jax.tree.leaves(weights))
    if os.fspath(target).endswith(LORA_SUFFIX):
        _write_updates(target, config.model, model, weights, force=force)
        return Assembled(chosen, ema, count)
    provenance = {
        **load_provenance(base),
        "trained": {"step": chosen, "ema": ema, "base": str(base), "config": dataclasses.asdict(config)},
    }
    sizes = config.distill.sizes(sizes) if isinstance(config, DistillExperiment) else sizes
    factor = lora_scale(config.model.lora_rank, config.model.lora_alpha)
    with create_checkpoint(target, sizes, provenance, force=force) as partial:
        write_over(partial, base, model, weights, factor, dtype)
    return Assembled(chosen, ema, count)


def _saved(config: ExperimentConfig, base: str | os.PathLike, trained: Tree) -> Tree:
    """Shapes of all weights that a run trains; in `dual_stream` these include the fake score and the heads."""
    if not isinstance(config, DualStreamExperiment):
        return trained
    here = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, checkpoint=os.fspath(base)),
        train=dataclasses.replace(config.train, validate_every_steps=0),
        distill=dataclasses.replace(config.distill, teacher=None),  # it may have moved, and is not needed
    )
    return make_objective(here).abstract_params()[0]


def _write_updates(
    target: str | os.PathLike, config: ModelConfig, model: VideoModel, weights: Tree, *, force: bool
) -> None:
    """Writes the low-rank updates alone."""
    if LORA not in weights:
        raise InputError(
            f"{target} is a file for low-rank updates, but the run trained none (model.lora_rank is 0); give a "
            "directory"
        )
    if Path(target).exists() and not force:
        raise InputError(f"{target} exists; choose another name, or replace it with --force")
    kernels = flatten(model.abstract_params(model.network_components))
    alpha = lora_scale(config.lora_rank, config.lora_alpha) * config.lora_rank
    write_lora(target, weights[LORA], kernels, alpha)
