"""Writes a copy of a checkpoint with trained weights or low-rank updates merged into it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
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
    read_config,
    save_component,
)
from star_jax.checkpoints.trees import LazyArray, flatten, unflatten
from star_jax.convert.lora_file import read_lora
from star_jax.errors import InputError
from star_jax.models.architectures import build_model
from star_jax.models.lora import DOWN, LORA, UP, lora_scale, merge_lora
from star_jax.models.video_model import VideoModel

Tree = dict[Any, Any]
Updates = dict[str, Tree]  # path of a module -> its two factors


def merge_lora_file(
    checkpoint: str | os.PathLike,
    file: str | os.PathLike,
    target: str | os.PathLike,
    *,
    strength: float = 1.0,
    dtype: str | None = None,
    force: bool = False,
) -> int:
    """Writes a checkpoint directory with a file of low-rank updates merged into its weights.

    Args:
      checkpoint: directory that the updates belong to.
      file: file of low-rank updates; see `star_jax.convert.lora_file`.
      target: directory to write; it appears when it is complete.
      strength: factor of the updates; 1 applies them as they were trained.
      dtype: dtype of all weights, such as bfloat16; by default they keep theirs.
      force: replace an existing checkpoint directory.

    Returns:
      Number of kernels that changed.

    Raises:
      InputError: the checkpoint or file does not exist, they do not fit, or `target` exists.
      RunError: the disk is full.
    """
    sizes = read_config(checkpoint)
    model = build_model(sizes)
    updates, alpha = read_lora(file)
    modules = _modules(updates)
    kernels = flatten(model.abstract_params(model.network_components))
    for path, factors in modules.items():
        kernel = kernels.get(f"{path}/kernel")
        shape = (factors[DOWN].shape[0], factors[UP].shape[1])
        if kernel is None or (int(np.prod(kernel.shape[:-1])), kernel.shape[-1]) != shape:
            raise InputError(
                f"{file} has an update of {path}, but {checkpoint} has no kernel of this name and shape; give the "
                "checkpoint that the updates were trained on"
            )
    rank = next(iter(modules.values()))[DOWN].shape[1]
    provenance = {**load_provenance(checkpoint), "lora": {"file": str(file), "strength": strength}}
    with create_checkpoint(target, sizes, provenance, force=force) as partial:
        factor = strength * lora_scale(rank, alpha)
        write_over(partial, checkpoint, model, {LORA: updates}, factor, dtype)
    return len(modules)


def write_over(
    partial: Path,
    base: str | os.PathLike,
    model: VideoModel,
    weights: Tree,
    lora_factor: float,
    dtype: str | None,
) -> None:
    """Writes all components of the base, with the given weights or low-rank updates merged into them.

    Leaves are copied one by one, so that memory holds the given weights and little more.

    Args:
      partial: directory to write to.
      base: checkpoint directory.
      model: the base's model.
      weights: leaves by component, or low-rank updates as component `lora`.
      lora_factor: factor of the updates.
      dtype: dtype of all weights; None keeps the dtype of each.

    Raises:
      InputError: the base lacks a leaf.
    """
    updates = _modules(weights.get(LORA, {}))
    given = flatten({name: tree for name, tree in weights.items() if name != LORA})
    changed = {path.split("/")[0] for path in (*given, *updates)}
    for name in model.components:
        if dtype is None and name not in changed:
            shutil.copytree(checkpoint_path(base) / name, partial / name)
            continue
        tree = _merged(base, name, flatten(model.abstract(name)), given, updates, lora_factor, dtype)
        save_component(partial, name, tree)
    tokenizer = checkpoint_path(base) / TOKENIZER_DIR
    if tokenizer.is_dir():
        shutil.copytree(tokenizer, partial / TOKENIZER_DIR)


def _modules(lora: Tree) -> Updates:
    modules: Updates = {}
    for path, leaf in flatten(lora).items():
        place, _, name = path.rpartition("/")
        modules.setdefault(place, {})[name] = leaf
    return modules


def _merged(
    base: str | os.PathLike,
    name: str,
    leaves: dict[str, jax.ShapeDtypeStruct],
    given: dict[str, np.ndarray],
    updates: Updates,
    lora_factor: float,
    dtype: str | None,
) -> Tree:
    """One component: the given leaves, and lazy leaves of the base; all in `dtype` if it is not None."""
    frozen = [path for path in leaves if f"{name}/{path}" not in given]
    stored = component_metadata(base, name) if frozen else {}
    if missing := [path for path in frozen if path not in stored]:
        raise InputError(
            f"{name} of {base} has no leaf {missing[0]}; give the checkpoint that training started from"
        )
    # The reader goes through the file once, in the order in which Orbax writes, which is that of jax.tree.
    reader = iterate_leaves(base, name, jax.tree.leaves(unflatten({path: path for path in frozen})))
    tree: dict[str, Any] = {}
    for path in frozen:
        module, _, leaf_name = f"{name}/{path}".rpartition("/")
        update = updates.get(module) if leaf_name == "kernel" else None
        kind = jnp.dtype(dtype or stored[path].dtype)
        tree[path] = _lazy(path, stored[path].shape, kind, reader, update, lora_factor)
    for path in leaves:
        if path not in tree:
            leaf = given[f"{name}/{path}"]
            tree[path] = leaf.astype(jnp.dtype(dtype or leaf.dtype))
    return unflatten(tree)


def _lazy(
    path: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    reader: Iterator[tuple[str, np.ndarray]],
    update: Tree | None,
    factor: float,
) -> LazyArray:
    def read() -> np.ndarray:
        found, array = next(reader)
        if found != path:
            raise ValueError(f"leaves are read out of order: {found} came instead of {path}")
        if update is not None:
            factors = jax.tree.map(np.asarray, update)
            array = merge_lora({"kernel": array.astype(np.float32)}, factors, factor)["kernel"]
        return array.astype(dtype)

    return LazyArray(shape, dtype, read)
