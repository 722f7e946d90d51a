"""PyTorch's file format from before 1.6, read without running any code in the file.

Layout: five pickles (a magic number, the protocol, the machine, the state dict, the order of the storages), then
the storages, each as an 8-byte count of elements and its bytes. Only the pickles are read here; tensors are read
later from their positions, so that a file may be larger than memory.
"""

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

from star_jax.convert.tensors import FileTensor
from star_jax.convert.torch_file import (
    DAMAGE,
    LONGEST_PICKLE,
    StateDictUnpickler,
    StorageRef,
    c_strides,
    check_memo,
    state_dict,
)
from star_jax.errors import InputError

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


class _Unpickler(StateDictUnpickler):
    """An unpickler that also records the pickle's storages, in `storages`."""

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.storages: dict[str, StorageRef] = {}

    def persistent_load(self, pid: Any) -> StorageRef:
        *described, view = pid
        if view is not None:
            raise InputError("one of its storages is a view of another")
        storage = super().persistent_load(tuple(described))
        return self.storages.setdefault(storage.key, storage)


def is_legacy_torch(path: Path) -> bool:
    """Whether a file starts like one of this format."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_legacy_torch(path: Path) -> dict[str, FileTensor]:
    """Lists the tensors of a state dict, flat or under `state_dict` or `module`, in the order of the file.

    Raises:
      InputError: the file would run code, is damaged, or is not a state dict.
    """
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size
            *_, (content, storages), (keys, _) = [_next_pickle(path, file, size) for _ in range(5)]
            tensors = state_dict(path, content)
            starts = _storage_starts(file, storages, keys, size)
    except DAMAGE as error:
        raise _bad(path, f"{type(error).__name__}: {str(error)[:100]}") from error
    located = {}
    for name, (storage, offset, shape, strides) in tensors.items():
        contiguous = c_strides(shape) == strides or math.prod(shape) <= 1
        located[name] = FileTensor(
            path,
            name,
            shape,
            storage.dtype,
            starts[storage.key],
            storage.size * storage.dtype.itemsize,
            offset=offset,
            strides=None if contiguous else strides,
        )
    return located


def _next_pickle(path: Path, file: BinaryIO, file_size: int) -> tuple[Any, dict[str, StorageRef]]:
    """The content of the next pickle, and the storages in it."""
    start = file.tell()
    check_memo(file, min(LONGEST_PICKLE, file_size))
    if file.tell() - start > LONGEST_PICKLE:
        raise ValueError("a pickle is too large")
    file.seek(start)
    unpickler = _Unpickler(file)
    try:
        return unpickler.load(), unpickler.storages
    except InputError as error:
        raise InputError(f"{path} is refused: {error}; only load files from people you trust") from error


def _storage_starts(
    file: BinaryIO, storages: dict[str, StorageRef], keys: list[str], file_size: int
) -> dict[str, int]:
    """Position of each storage's bytes; the file must be positioned after the pickles."""
    starts = {}
    position = file.tell()
    for key in map(str, keys):
        storage = storages[key]
        file.seek(position)
        (count,) = struct.unpack("<q", file.read(8))
        starts[key] = position + 8
        position = starts[key] + storage.size * storage.dtype.itemsize
        if count != storage.size or position > file_size:
            raise ValueError(f"storage {key} is truncated")
    if position != file_size:
        raise ValueError("bytes follow the last storage")
    if missing := storages.keys() - starts.keys():
        raise ValueError(f"storage {min(missing)} is missing")
    return starts


def _bad(path: Path, why: str) -> InputError:
    return InputError(f"{path} is not a complete PyTorch file of weights: {why}; download it again")
