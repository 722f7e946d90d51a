"""From a work directory to a checkpoint directory to upscale with: trained weights over the frozen ones."""

import dataclasses
import os
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.checkpoints.directory import (
    TOKENIZER_DIR,
    checkpoint_path,
    component_metadata,
    create_checkpoint,
    iterate_leaves,
    load_provenance,
    save_component,
)
from star_jax.checkpoints.trees import LazyArray, flatten, unflatten
from star_jax.errors import InputError
from star_jax.models.architectures import build_model
from star_jax.train.checkpoints import restore_weights
from star_jax.train.config import ExperimentConfig, from_groups
from star_jax.train.star.weights import model_sizes
from star_jax.train.workdir import read_workdir_config


@dataclasses.dataclass(frozen=True)
class Assembled:
    """What was put together.

    Attributes:
      step: of the training checkpoint.
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
    """Writes a checkpoint directory from a run of `star-jax train`.

    Leaves are copied one by one, so that memory holds the trained weights and little more.

    Args:
      workdir: of the run.
      target: the directory that appears when it is complete.
      step: of the training checkpoint; the newest by default.
      ema: take the moving average; by default where the run keeps one.
      base: checkpoint that the run started from, where it is not where it was (model.checkpoint).
      dtype: of all weights, such as bfloat16; by default trained ones are float32, the others as they were.
      force: replace an existing checkpoint directory.

    Raises:
      InputError: no such run, step or base, no average was kept, or `target` exists.
      RunError: the disk is full.
    """
    config = from_groups(ExperimentConfig, read_workdir_config(workdir))
    base = base or config.model.checkpoint
    if ema and not config.train.ema_decay:
        raise InputError(f"{workdir} kept no moving average (train.ema_decay is 0); leave out --ema")
    ema = bool(config.train.ema_decay) if ema is None else ema
    sizes = model_sizes(dataclasses.replace(config.model, checkpoint=os.fspath(base)))
    model = build_model(sizes)
    networks = {name: flatten(model.abstract(name)) for name in model.components}
    trained = {  # path with its component -> float32 leaf
        f"{name}/{path}": leaf
        for name, leaves in networks.items()
        for path, leaf in leaves.items()
        if model.is_trainable(f"{name}/{path}", train_base=config.model.train_base)
    }
    chosen, weights = restore_weights(workdir, unflatten(trained), step=step, ema=ema)
    weights = flatten(weights)
    provenance = {
        **load_provenance(base),
        "trained": {"step": chosen, "ema": ema, "base": str(base), "config": dataclasses.asdict(config)},
    }
    with create_checkpoint(target, sizes, provenance, force=force) as partial:
        for name, leaves in networks.items():
            if dtype is not None or any(path.startswith(f"{name}/") for path in trained):
                save_component(partial, name, _merged(base, name, leaves, weights, dtype))
            else:
                shutil.copytree(checkpoint_path(base) / name, partial / name)
        tokenizer = checkpoint_path(base) / TOKENIZER_DIR
        if tokenizer.is_dir():
            shutil.copytree(tokenizer, partial / TOKENIZER_DIR)
    return Assembled(chosen, ema, sum(leaf.size for leaf in weights.values()))


def _merged(
    base: str | os.PathLike,
    name: str,
    leaves: dict[str, jax.ShapeDtypeStruct],
    weights: dict[str, np.ndarray],
    dtype: str | None,
) -> dict[Any, Any]:
    """One component: trained leaves, and lazy ones of the base; all of `dtype` where one is given."""
    frozen = [path for path in leaves if f"{name}/{path}" not in weights]
    stored = component_metadata(base, name) if frozen else {}
    if missing := [path for path in frozen if path not in stored]:
        raise InputError(
            f"{name} of {base} has no leaf {missing[0]}; give the checkpoint that training started from"
        )
    # The reader goes through the file once, in the order in which Orbax writes: that of jax.tree.
    reader = iterate_leaves(base, name, jax.tree.leaves(unflatten({path: path for path in frozen})))
    tree: dict[str, Any] = {
        path: _lazy(path, stored[path].shape, jnp.dtype(dtype or stored[path].dtype), reader)
        for path in frozen
    }
    for path in leaves:
        if path not in tree:
            leaf = weights[f"{name}/{path}"]
            tree[path] = leaf.astype(jnp.dtype(dtype or leaf.dtype))
    return unflatten(tree)


def _lazy(
    path: str, shape: tuple[int, ...], dtype: np.dtype, reader: Iterator[tuple[str, np.ndarray]]
) -> LazyArray:
    def read() -> np.ndarray:
        found, array = next(reader)
        if found != path:
            raise ValueError(f"leaves are written in another order than read: {found}, not {path}")
        return array.astype(dtype)

    return LazyArray(shape, dtype, read)
