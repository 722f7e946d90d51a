"""PyTorch's files from before 1.6, read without running any of it.

Layout: five pickles (a magic number, the protocol, the machine, the state dict, the order of the storages), then
the storages, each as an 8-byte count of elements and its bytes. Small files only: storages are held in memory.
"""

import io
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from star_jax.convert.tensors import ArrayTensor
from star_jax.convert.torch_file import DAMAGE, StateDictUnpickler, StorageRef, check_memo, state_dict
from star_jax.errors import InputError

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_LARGEST = 2**30


class _Unpickler(StateDictUnpickler):
    def persistent_load(self, pid: Any) -> StorageRef:
        *described, view = pid
        if view is not None:
            raise InputError("it has a storage that is a view of another")
        return super().persistent_load(tuple(described))


def is_legacy_torch(path: Path) -> bool:
    """Whether the file starts like one."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_legacy_torch(path: Path) -> dict[str, ArrayTensor]:
    """Reads the tensors of a state dict, flat or under the key `state_dict`, in the order of the file.

    Raises:
      InputError: it would run code, is damaged, or is not a state dict.
    """
    size = path.stat().st_size
    if size > _LARGEST:
        raise _bad(path, "it is larger than 1 GiB")
    file = io.BytesIO(path.read_bytes())
    try:
        *_, content, keys = (_next_pickle(path, file, size) for _ in range(5))
        tensors = state_dict(path, content)
        described = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
        storages = {str(key): _read_storage(file, described[str(key)]) for key in keys}
        if file.read(1):
            raise ValueError("bytes follow the last storage")
        return {name: ArrayTensor(_view(tensor, storages)) for name, tensor in tensors.items()}
    except DAMAGE as error:
        raise _bad(path, f"{type(error).__name__}: {str(error)[:100]}") from error


def _next_pickle(path: Path, file: io.BytesIO, size: int) -> Any:
    start = file.tell()
    check_memo(file, size)
    file.seek(start)
    try:
        return _Unpickler(file).load()
    except InputError as error:
        raise InputError(f"{path} is refused: {error}; only load files from people you trust") from error


def _read_storage(file: io.BytesIO, storage: StorageRef) -> np.ndarray:
    (count,) = struct.unpack("<q", file.read(8))
    data = file.read(storage.size * storage.dtype.itemsize)
    if count != storage.size or len(data) != storage.size * storage.dtype.itemsize:
        raise ValueError(f"storage {storage.key} is cut short")
    return np.frombuffer(data, storage.dtype)


def _view(tensor, storages: dict) -> np.ndarray:
    elements = storages[tensor.storage.key][tensor.offset :]
    if not math.prod(tensor.shape):
        return np.empty(tensor.shape, elements.dtype)
    strides = tuple(step * elements.itemsize for step in tensor.strides)
    return np.lib.stride_tricks.as_strided(elements, tensor.shape, strides, writeable=False)


def _bad(path: Path, why: str) -> InputError:
    return InputError(f"{path} is not a whole PyTorch file of weights: {why}; download it again")
