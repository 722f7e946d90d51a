"""Checkpoint directories: what is in one, and reading and writing them (the only file that knows Orbax's layout).

    DIR/{unet,controlnet,vae,text_encoder}/   one Orbax tree per component
    DIR/tokenizer/                            CLIP tokenizer files
    DIR/config.json                           StarConfig
    DIR/provenance.json                       where the weights came from

A directory appears under its name only when it is complete (`create_checkpoint`).
"""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import type_handlers

from star_jax.config import StarConfig
from star_jax.errors import InputError, RunError
from star_jax.models.components import COMPONENTS

CONFIG_FILE = "config.json"
PROVENANCE_FILE = "provenance.json"
TOKENIZER_DIR = "tokenizer"

# Leaves are stored in pieces of at most this size, so that a device reads little more than its own shard.
_CHUNK_BYTES = 8 * 2**20
# Lazy leaves are read and written in batches of about this size; two are in memory at a time.
_BATCH_BYTES = 256 * 2**20
# What Orbax and TensorStore raise for missing, truncated or damaged files.
_READ_ERRORS = (OSError, ValueError, KeyError, TypeError)

Tree = Mapping[Any, Any]


@dataclass(frozen=True)
class LazyArray:
    """A leaf that is read when it is written, so that a tree larger than memory can be saved."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class _LazyArrayHandler(type_handlers.NumpyHandler):
    """Writes LazyArrays batch by batch, reading the next one meanwhile; on disk they are plain arrays."""

    def __init__(self):
        super().__init__(deepcopy_host_arrays=False)

    async def serialize(self, values, infos, args=None):
        batches = list(_batches([value.nbytes for value in values]))
        with ThreadPoolExecutor(1) as reader:
            reading = reader.submit(_read_all, values[batches[0]])
            for batch, following in zip(batches, [*batches[1:], None], strict=True):
                arrays = reading.result()
                if following is not None:
                    reading = reader.submit(_read_all, values[following])
                for write in await super().serialize(arrays, infos[batch], args[batch]):
                    write.result()
                del arrays
        return []


def _read_all(values: list[LazyArray]) -> list[np.ndarray]:
    return [value.read() for value in values]


def _batches(sizes: list[int]) -> Iterator[slice]:
    """Splits leaves into runs of about _BATCH_BYTES: each run costs a commit, and all of it is in memory."""
    start, total = 0, 0
    for i, size in enumerate(sizes):
        if i > start and total + size > _BATCH_BYTES:
            yield slice(start, i)
            start, total = i, 0
        total += size
    yield slice(start, len(sizes))


def _checkpointer() -> ocp.Checkpointer:
    registry = type_handlers.create_type_handler_registry(
        (LazyArray, _LazyArrayHandler()),
        (np.ndarray, type_handlers.NumpyHandler()),
        (jax.Array, type_handlers.ArrayHandler()),
    )
    # Weights barely compress; not trying makes saving and restoring several times faster.
    return ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=registry)
    )


def flatten(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """Flattens nested dicts to {`down_blocks/0/resnets/0/norm1/scale`: leaf}, in the tree's order."""
    leaves = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        leaves |= flatten(value, path + "/") if isinstance(value, Mapping) else {path: value}
    return leaves


def unflatten(leaves: Mapping[str, Any]) -> dict[Any, Any]:
    """Inverse of `flatten`; parts that are numbers become int keys."""
    tree: dict[Any, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = leaf
    return tree


def save_component(directory: str | os.PathLike, name: str, tree: Tree) -> None:
    """Writes one component's tree (leaves: numpy or jax arrays, or LazyArrays) below `directory`.

    Raises:
      RunError: the disk is full or not writable.
    """
    options = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES), tree)
    path = Path(directory).absolute() / name
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(path, args=ocp.args.PyTreeSave(tree, save_args=options))
    except (OSError, ValueError) as error:
        raise RunError(
            f"cannot write {path}: {_first_line(error)}; free disk space or choose another place"
        ) from error


def load_component(directory: str | os.PathLike, name: str, abstract_tree: Tree) -> dict[Any, Any]:
    """Restores one component.

    Args:
      directory: a checkpoint directory.
      name: one of COMPONENTS.
      abstract_tree: nested dict of jax.ShapeDtypeStruct (`abstract_component`). Leaves are cast to
        its dtypes and placed by its shardings, each device reading its own part, whatever mesh they were saved
        from; a leaf without a sharding goes to the first device.

    Raises:
      InputError: the component is missing or damaged, or its leaves are not those of `abstract_tree`.
    """
    wanted = flatten(abstract_tree)
    stored = component_metadata(directory, name)
    place = f"{name} of {directory}"
    remedy = "use the preset it was made for, or convert it again"
    if missing := [path for path in wanted if path not in stored]:
        raise InputError(
            f"{place} has no leaf {missing[0]} (and {len(missing) - 1} more are missing); {remedy}"
        )
    if extra := [path for path in stored if path not in wanted]:
        raise InputError(
            f"{place} has a leaf {extra[0]} that the network has not (and {len(extra) - 1} more); {remedy}"
        )
    for path, leaf in wanted.items():
        if stored[path].shape != tuple(leaf.shape):
            raise InputError(
                f"{place}: {path} is {stored[path].shape}, the network has {tuple(leaf.shape)}; {remedy}"
            )
    placement = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return _restore(
        directory, name, abstract_tree, lambda leaf: _array_args(leaf, leaf.sharding or placement)
    )


def iterate_leaves(
    directory: str | os.PathLike, name: str, paths: Sequence[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Reads leaves of a component one by one in the order of `paths`, a batch in memory at a time.

    Raises:
      InputError: the component is missing or damaged.
    """
    stored = component_metadata(directory, name)
    sizes = [math.prod(stored[path].shape) * stored[path].dtype.itemsize for path in paths]
    for batch in _batches(sizes):
        wanted = unflatten({path: stored[path] for path in paths[batch]})
        leaves = flatten(
            _restore(directory, name, wanted, lambda _: ocp.RestoreArgs(restore_type=np.ndarray))
        )
        for path in paths[batch]:
            yield path, leaves.pop(path)


def component_metadata(directory: str | os.PathLike, name: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a stored component by path, without reading its arrays.

    Raises:
      InputError: not a checkpoint directory, no such component, or its description is damaged.
    """
    path = _checkpoint_path(directory) / name
    if not path.is_dir():
        raise InputError(
            f"{directory} has no {name}; convert it again with a source that has one (star-jax convert SRC... DST)"
        )
    try:
        with _checkpointer() as checkpointer:
            tree = checkpointer.metadata(path).item_metadata.tree
        return {
            key: jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype) for key, leaf in flatten(tree).items()
        }
    except (*_READ_ERRORS, AttributeError) as error:
        raise _damaged(path, error) from error


def present_components(directory: str | os.PathLike) -> list[str]:
    """The components that a checkpoint directory has, in the order of COMPONENTS."""
    path = _checkpoint_path(directory)
    return [name for name in COMPONENTS if (path / name).is_dir()]


def read_config(directory: str | os.PathLike, *, expect_preset: str | None = None) -> StarConfig:
    """Reads the sizes that a checkpoint was made with.

    Raises:
      InputError: not a checkpoint directory, or one of another preset than `expect_preset`.
    """
    config = StarConfig.from_json(_read_text(_checkpoint_path(directory) / CONFIG_FILE))
    if expect_preset is not None and config.preset != expect_preset:
        raise InputError(
            f"{directory} holds preset {config.preset!r}, not {expect_preset!r}; choose the other one"
        )
    return config


def load_provenance(directory: str | os.PathLike) -> dict[str, Any]:
    """Reads where a checkpoint's weights came from.

    Raises:
      InputError: not a checkpoint directory, or its provenance.json is damaged.
    """
    path = _checkpoint_path(directory) / PROVENANCE_FILE
    try:
        return json.loads(_read_text(path))
    except ValueError as error:
        raise _damaged(path, error) from error


@contextlib.contextmanager
def create_checkpoint(
    directory: str | os.PathLike, config: StarConfig, provenance: dict[str, Any], *, force: bool = False
) -> Iterator[Path]:
    """Builds a checkpoint directory so that it appears only when it is complete.

    Yields a temporary sibling to write components and tokenizer into; config.json and provenance.json (as the
    dict is by then) are added at the end, and it is renamed. On any exception, Ctrl-C included, it is removed.

    Args:
      directory: the name that appears; its parent must exist.
      config: sizes.
      provenance: JSON-able; may be filled while the directory is being built.
      force: replace an existing checkpoint directory.

    Raises:
      InputError: `directory` exists (without force, or is no checkpoint), or its parent does not.
    """
    target = Path(directory).absolute()
    check_destination(target, force=force)
    partial = target.parent / f".{target.name}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        yield partial
        (partial / CONFIG_FILE).write_text(config.to_json() + "\n")
        (partial / PROVENANCE_FILE).write_text(json.dumps(provenance, indent=2) + "\n")
        if target.exists():
            replaced = partial.with_suffix(".replaced")
            target.rename(replaced)
            partial.rename(target)
            shutil.rmtree(replaced)
        else:
            partial.rename(target)
    except OSError as error:
        raise RunError(f"cannot write {directory}: {_first_line(error)}; choose another place") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_destination(target: Path, *, force: bool) -> None:
    """Refuses a place where a checkpoint cannot go.

    Raises:
      InputError: it exists (without force, or is no checkpoint directory), or its parent does not exist.
    """
    if not target.absolute().parent.is_dir():
        raise InputError(f"folder {target.absolute().parent} does not exist; create it first")
    if not target.exists() and not target.is_symlink():
        return
    if not force:
        raise InputError(f"{target} exists; choose another name, or pass --force to replace it")
    if not (target / CONFIG_FILE).is_file() and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(
            f"{target} exists and is not a checkpoint directory; --force does not replace such things"
        )


def _restore(
    directory: str | os.PathLike,
    name: str,
    abstract_tree: Tree,
    restore_args: Callable[[jax.ShapeDtypeStruct], ocp.RestoreArgs],
) -> dict[Any, Any]:
    path = _checkpoint_path(directory) / name
    options = jax.tree.map(restore_args, abstract_tree)
    args = ocp.args.PyTreeRestore(item=abstract_tree, restore_args=options, partial_restore=True)
    try:
        with _checkpointer() as checkpointer:
            return checkpointer.restore(path, args=args)
    except _READ_ERRORS as error:
        raise _damaged(path, error) from error


def _array_args(leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> ocp.ArrayRestoreArgs:
    return ocp.ArrayRestoreArgs(
        restore_type=jax.Array, dtype=leaf.dtype, sharding=sharding, global_shape=tuple(leaf.shape)
    )


def _checkpoint_path(directory: str | os.PathLike) -> Path:
    path = Path(directory).absolute()
    remedy = "make one with star-jax convert SRC... DST"
    if not path.exists():
        raise InputError(f"checkpoint directory {directory} does not exist; {remedy}")
    if not (path / CONFIG_FILE).is_file():
        raise InputError(f"{directory} is not a checkpoint directory (it has no {CONFIG_FILE}); {remedy}")
    return path


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: BaseException) -> InputError:
    return InputError(f"{path} cannot be read ({_first_line(error)}); convert the checkpoint again")


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "..."
