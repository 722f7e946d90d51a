"""Checkpoint directories: their contents, reading and writing.

    DIR/COMPONENT/        one Orbax tree per component of the model
    DIR/tokenizer/        tokenizer files of a model with text
    DIR/config.json       the model's sizes, an `ArchitectureConfig`
    DIR/provenance.json   where the weights came from

A directory appears under its name only when it is complete (`create_checkpoint`); it may be in a bucket. The name
`tiny-star` means the small model that comes with the package (docs/tiny_star.md), unless a directory of that name
exists.
"""

import contextlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from star_jax.checkpoints.remote import local_copy, names_in, uploaded
from star_jax.checkpoints.trees import (
    Tree,
    damaged,
    flatten,
    iterate_tree,
    read_layer,
    read_text,
    restore_tree,
    save_tree,
    tree_metadata,
)
from star_jax.config import ArchitectureConfig
from star_jax.errors import InputError, RunError, first_line
from star_jax.files import appearing, is_url, write_json
from star_jax.models.architectures import build_model, read_model_config
from star_jax.models.video_model import TOKENIZER_DIR as TOKENIZER_DIR  # part of the layout above
from star_jax.presets import BUNDLED, weights_remedy

CONFIG_FILE = "config.json"
PROVENANCE_FILE = "provenance.json"


def save_component(directory: str | os.PathLike, name: str, tree: Tree) -> None:
    """Writes one component's tree (leaves: numpy or jax arrays, or LazyArrays) below `directory`.

    Raises:
      RunError: the disk is full or not writable.
    """
    try:
        save_tree(Path(directory).absolute() / name, tree)
    except (OSError, ValueError) as error:
        raise RunError(
            f"cannot write {name}: {first_line(error)}; free disk space or choose another place"
        ) from error


def load_component(directory: str | os.PathLike, name: str, abstract_tree: Tree) -> dict[Any, Any]:
    """Restores one component.

    Args:
      directory: a checkpoint directory.
      name: a component of the model.
      abstract_tree: nested dict of jax.ShapeDtypeStruct (`VideoModel.abstract`). Leaves are cast to its dtypes and
        placed by its shardings; each device reads its own part, whatever mesh they were saved from. A leaf without
        a sharding goes to the first device.

    Raises:
      InputError: the component is missing or damaged, or its leaves differ from `abstract_tree`.
    """
    wanted = flatten(abstract_tree)
    stored = component_metadata(directory, name)
    place = f"{name} of {directory}"
    remedy = "use the preset that it was made for, or convert it again"
    if missing := [path for path in wanted if path not in stored]:
        raise InputError(
            f"{place} has no leaf {missing[0]} (and {len(missing) - 1} more are missing); {remedy}"
        )
    if extra := [path for path in stored if path not in wanted]:
        raise InputError(f"{place} has an unexpected leaf {extra[0]} (and {len(extra) - 1} more); {remedy}")
    for path, leaf in wanted.items():
        if stored[path].shape != tuple(leaf.shape):
            raise InputError(
                f"{place}: {path} is {stored[path].shape}, but the network has {tuple(leaf.shape)}; {remedy}"
            )
    return restore_tree(checkpoint_path(directory) / name, abstract_tree)


def iterate_leaves(
    directory: str | os.PathLike, name: str, paths: Sequence[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Reads leaves of a component one by one in the order of `paths`, with one batch in memory at a time.

    Raises:
      InputError: the component is missing or damaged.
    """
    yield from iterate_tree(_component_path(directory, name), list(paths))


def iterate_layers(
    directory: str | os.PathLike, name: str, wanted: Sequence[tuple[str, int | None]]
) -> Iterator[np.ndarray]:
    """Reads leaves, or single layers of stacked leaves, one by one.

    Args:
      directory, name: checkpoint directory and name of the component.
      wanted: path of each leaf and the index along its first axis; None for the whole leaf.

    Raises:
      InputError: the component is missing or damaged.
    """
    path = _component_path(directory, name)
    for is_whole, run in itertools.groupby(wanted, key=lambda leaf: leaf[1] is None):
        if is_whole:
            yield from (array for _, array in iterate_tree(path, [leaf for leaf, _ in run]))
        else:
            yield from (read_layer(path, leaf, layer) for leaf, layer in run if layer is not None)


def component_metadata(directory: str | os.PathLike, name: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a stored component by path, without reading its arrays.

    Raises:
      InputError: not a checkpoint directory, or the component is missing or damaged.
    """
    return tree_metadata(_component_path(directory, name))


def present_components(directory: str | os.PathLike) -> list[str]:
    """The components in a checkpoint directory, in the model's order.

    Raises:
      InputError: not a checkpoint directory.
    """
    path, model = checkpoint_path(directory), build_model(read_config(directory))
    return [name for name in model.components if (path / name).is_dir()]


def check_components(directory: str | os.PathLike, names: Sequence[str]) -> None:
    """Refuses an incomplete checkpoint before the first of its components is read.

    Raises:
      InputError: one of the components is missing.
    """
    for name in names:
        _component_path(directory, name)


def read_config(directory: str | os.PathLike, *, expect_preset: str | None = None) -> ArchitectureConfig:
    """Reads the sizes of a checkpoint's model.

    Raises:
      InputError: not a checkpoint directory, or one of another preset than `expect_preset`.
    """
    path = checkpoint_path(directory) / CONFIG_FILE
    try:
        config = read_model_config(read_text(path))
    except AttributeError as error:  # a string or a number in place of an object
        raise damaged(path, error) from error
    if expect_preset is not None and config.preset != expect_preset:
        raise InputError(
            f"{directory} holds preset {config.preset!r}; choose a checkpoint of preset {expect_preset!r}"
        )
    return config


def load_provenance(directory: str | os.PathLike) -> dict[str, Any]:
    """Reads where a checkpoint's weights came from.

    Raises:
      InputError: not a checkpoint directory, or its provenance.json is damaged.
    """
    path = checkpoint_path(directory) / PROVENANCE_FILE
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise damaged(path, error) from error


@contextlib.contextmanager
def create_checkpoint(
    directory: str | os.PathLike,
    config: ArchitectureConfig,
    provenance: dict[str, Any],
    *,
    force: bool = False,
) -> Iterator[Path]:
    """Builds a checkpoint directory that appears only when it is complete.

    Yields a temporary sibling for components and tokenizer. At the end, config.json and provenance.json (with the
    dict's final content) are added and the sibling is renamed. On any exception, including Ctrl-C, it is removed.
    A directory in a bucket (gs://, s3://) is built on this machine and then uploaded, config.json last.

    Args:
      directory: final name; its parent must exist.
      config: sizes.
      provenance: JSON-serialisable; may be filled while the directory is being built.
      force: replace an existing checkpoint directory.

    Raises:
      InputError: `directory` exists (without `force`, or is not a checkpoint), or its parent does not.
      RunError: the directory cannot be written.
    """
    check_destination(directory, force=force)
    if is_url(directory):
        place = uploaded(os.fspath(directory), CONFIG_FILE)
    else:
        place = appearing(Path(directory).absolute())
    try:
        with place as partial:
            partial.mkdir(exist_ok=True)
            yield partial
            write_json(partial / PROVENANCE_FILE, provenance)
            (partial / CONFIG_FILE).write_text(config.to_json() + "\n")
    except OSError as error:
        raise RunError(f"cannot write {directory}: {first_line(error)}; choose another place") from error


def check_destination(directory: str | os.PathLike, *, force: bool) -> None:
    """Checks that a checkpoint directory can be created or replaced.

    Raises:
      InputError: it exists (without `force`, or is not a checkpoint directory), or its parent does not exist.
    """
    # A config.json alone does not prove a checkpoint: other libraries' folders have one, too.
    both = {CONFIG_FILE, PROVENANCE_FILE}
    if is_url(directory):
        names = names_in(os.fspath(directory))
        exists, is_replaceable = bool(names), both <= set(names)
    else:
        path = Path(directory)
        if not path.absolute().parent.is_dir():
            raise InputError(f"folder {path.absolute().parent} does not exist; create it first")
        exists = path.exists() or path.is_symlink()
        is_replaceable = all((path / name).is_file() for name in both) or (
            path.is_dir() and not any(path.iterdir())
        )
    if exists and not force:
        raise InputError(f"{directory} exists; choose another name, or pass --force to replace it")
    if exists and not is_replaceable:
        raise InputError(
            f"{directory} exists and is not a checkpoint directory, so --force does not replace it; choose another "
            "name"
        )


def checkpoint_path(directory: str | os.PathLike) -> Path:
    """The absolute path of a checkpoint directory, of the bundled one, or of the local copy of one in a bucket.

    Raises:
      InputError: it is not a checkpoint directory.
    """
    if is_url(directory):
        return local_copy(os.fspath(directory), CONFIG_FILE)
    path = Path(directory).absolute()
    if str(directory) == BUNDLED and not path.exists():
        return Path(__file__).parents[1] / "weights" / BUNDLED
    remedy = "make one with star-jax convert SRC... DST"
    if not path.exists():
        raise InputError(
            f"checkpoint directory {directory} does not exist; {weights_remedy(path.name) or remedy}"
        )
    if not (path / CONFIG_FILE).is_file():
        raise InputError(f"{directory} is not a checkpoint directory (it has no {CONFIG_FILE}); {remedy}")
    return path


def _component_path(directory: str | os.PathLike, name: str) -> Path:
    path = checkpoint_path(directory) / name
    if not path.is_dir():
        raise InputError(
            f"{directory} has no {name}; convert it again with a source that has one (star-jax convert)"
        )
    return path
