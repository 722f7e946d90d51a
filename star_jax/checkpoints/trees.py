"""Trees of arrays on disk in Orbax's format, written from lazy leaves.

Paths within a tree are written `down_blocks/0/resnets/0/norm1/scale`.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from flax.nnx.traversals import flatten_mapping, unflatten_mapping
from orbax.checkpoint import type_handlers

from star_jax.errors import InputError, first_line

# Leaves are stored in chunks of at most this size, so that a device reads little more than its own shard.
_CHUNK_BYTES = 8 * 2**20
# Lazy leaves are read and written in batches of about this size; two are in memory at a time.
_BATCH_BYTES = 256 * 2**20
_LARGE_BYTES = 2**30
_SIZES_FILE = "file_sizes.json"  # within each component, to detect an incomplete copy
# Errors of Orbax and TensorStore for missing, truncated or damaged files.
_READ_ERRORS = (OSError, ValueError, KeyError, TypeError)

Tree = Mapping[Any, Any]


@dataclass(frozen=True)
class LazyArray:
    """A leaf that is only read when it is saved, so that a tree larger than memory can be saved."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class _LazyArrayHandler(type_handlers.NumpyHandler):
    """Writes LazyArrays batch by batch while it reads the next batch; on disk they are plain arrays."""

    def __init__(self) -> None:
        super().__init__(deepcopy_host_arrays=False)
        self._failures: list[ValueError] = []

    async def serialize(self, values, infos, args=None):
        batches = list(_batches([value.nbytes for value in values]))
        with ThreadPoolExecutor(1) as reader:
            reading = reader.submit(_read_all, values[batches[0]])
            for batch, following in zip(batches, [*batches[1:], None], strict=True):
                arrays = reading.result()
                # Two of the largest leaves (stacked layers) at a time would need too much memory.
                is_large = sum(array.nbytes for array in arrays) > _LARGE_BYTES
                if following is not None and not is_large:
                    reading = reader.submit(_read_all, values[following])
                for write in await super().serialize(arrays, infos[batch], args[batch]):
                    write.result()
                if self._failures:
                    raise self._failures[0]
                del arrays
                if following is not None and is_large:
                    reading = reader.submit(_read_all, values[following])
        return []

    async def _open_and_write(self, *args):
        # If one leaf raised here, the others of its batch would lose their event loop and print errors of their
        # own.
        try:
            await super()._open_and_write(*args)
        except ValueError as error:
            self._failures.append(error)


def _read_all(values: list[LazyArray]) -> list[np.ndarray]:
    return [value.read() for value in values]


def _batches(sizes: list[int]) -> Iterator[slice]:
    """Splits leaves into batches of about _BATCH_BYTES: each costs a commit, and is in memory as a whole."""
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
    # Each process works by itself; otherwise Orbax would wait for the other processes, which may not call it.
    index = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(index, {index}, f"process_{index}")
    # Weights barely compress, and without compression saving and restoring are several times faster.
    handler = ocp.PyTreeCheckpointHandler(
        use_compression=False, type_handler_registry=registry, multiprocessing_options=alone
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def flatten(tree: Tree) -> dict[str, Any]:
    """Flattens nested dicts to {`down_blocks/0/resnets/0/norm1/scale`: leaf}, in the tree's order."""
    return {"/".join(map(str, path)): leaf for path, leaf in flatten_mapping(tree).items()}


def unflatten(leaves: Mapping[str, Any]) -> dict[Any, Any]:
    """Inverse of `flatten`; numeric parts of a path become int keys."""
    return unflatten_mapping({_keys(path): leaf for path, leaf in leaves.items()})


def _keys(path: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdigit() else part for part in path.split("/"))


def save_tree(path: Path, tree: Tree) -> None:
    """Writes a tree (leaves: numpy or jax arrays, or LazyArrays) as the directory `path`, in this process alone.

    Raises:
      OSError, ValueError: the disk is full or not writable.
    """
    # On the host: in a run of several processes, Orbax refuses device arrays that only one of them holds.
    tree = jax.tree.map(lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf, tree)
    # Chunks are cut along the first axis first, so that one layer of a stack can be read without the others.
    options = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES, shard_axes=(0,)), tree)
    with _checkpointer() as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(tree, save_args=options))
    (path / _SIZES_FILE).write_text(json.dumps(_file_sizes(path)))


def restore_tree(path: Path, abstract_tree: Tree) -> dict[Any, Any]:
    """Restores the leaves in `abstract_tree`, with its dtypes and shardings.

    Raises:
      InputError: the directory is damaged.
    """
    placement = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def options(leaf: jax.ShapeDtypeStruct) -> ocp.ArrayRestoreArgs:
        return ocp.ArrayRestoreArgs(
            restore_type=jax.Array,
            dtype=leaf.dtype,
            sharding=leaf.sharding or placement,
            global_shape=tuple(leaf.shape),
        )

    return _restore(path, abstract_tree, jax.tree.map(options, abstract_tree))


def iterate_tree(path: Path, paths: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Reads leaves one by one in the order of `paths`, with one batch in memory at a time.

    Raises:
      InputError: the directory is damaged.
    """
    stored = tree_metadata(path)
    for batch in _batches([math.prod(stored[p].shape) * stored[p].dtype.itemsize for p in paths]):
        wanted = unflatten({p: stored[p] for p in paths[batch]})
        options = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        leaves = flatten(_restore(path, wanted, options))
        for p in paths[batch]:
            yield p, leaves.pop(p)


def read_layer(path: Path, leaf: str, layer: int) -> np.ndarray:
    """Reads one index of a leaf's first axis, from only the chunks that hold it.

    Raises:
      InputError: the directory is damaged.
    """
    store = {"driver": "ocdbt", "base": path.as_uri(), "path": leaf.replace("/", ".") + "/"}
    try:
        array = tensorstore.open({"driver": "zarr", "kvstore": store}, open=True, read=True).result()
        return array[layer].read().result()
    except _READ_ERRORS as error:
        raise damaged(path, error) from error


def tree_metadata(path: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes by path, without reading the arrays.

    Raises:
      InputError: a file is missing, truncated or damaged.
    """
    _check_files(path)
    try:
        with _checkpointer() as checkpointer:
            tree = checkpointer.metadata(path).item_metadata.tree
        return {p: jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype) for p, leaf in flatten(tree).items()}
    except (*_READ_ERRORS, AttributeError) as error:
        raise damaged(path, error) from error


def _restore(path: Path, abstract_tree: Tree, options: Tree) -> dict[Any, Any]:
    args = ocp.args.PyTreeRestore(item=abstract_tree, restore_args=options, partial_restore=True)
    try:
        with _checkpointer() as checkpointer:
            return checkpointer.restore(path, args=args)
    except _READ_ERRORS as error:
        raise damaged(path, error) from error


def _file_sizes(path: Path) -> dict[str, int]:
    return {
        str(file.relative_to(path)): file.stat().st_size
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != _SIZES_FILE
    }


def _check_files(path: Path) -> None:
    """Finds missing and truncated files before Orbax does, as its errors for them are hard to understand."""
    sizes = read_text(path / _SIZES_FILE)
    try:
        expected = dict(json.loads(sizes))
    except (ValueError, TypeError) as error:
        raise damaged(path / _SIZES_FILE, error) from error
    found = _file_sizes(path)
    for name, size in expected.items():
        if found.get(name) != size:
            state = f"has {found[name]} bytes, not {size}" if name in found else "is missing"
            raise InputError(f"{path / name} {state}; copy or convert the checkpoint again")


def read_text(path: Path) -> str:
    """Reads a text file of a checkpoint.

    Raises:
      InputError: the file cannot be read.
    """
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: BaseException) -> InputError:
    """The error for a file that cannot be read."""
    return InputError(f"{path} cannot be read ({first_line(error)}); convert the checkpoint again")
