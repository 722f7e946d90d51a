"""PyTorch's .pt files (a zip of a pickle and raw storages), read without running code, and written piece by piece.

The pickle is read by an unpickler that knows the few names of a state dict and refuses all others. This gives the
same guarantee as `torch.load(weights_only=True)`, without loading the tensors and without PyTorch. The zip's
checksums are verified as tensors are read. Layout: `<name>/data.pkl`, `<name>/data/<key>` per storage,
`<name>/version`.
"""

import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from star_jax.convert.tensors import FileTensor
from star_jax.errors import InputError

_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_STORAGE_NAMES = {np.dtype(dtype): name for name, dtype in _STORAGES.items()}
LONGEST_PICKLE = 64 * 2**20  # a pickle has only names and shapes of tensors; STAR's is 0.4 MB
_ALIGNMENT = 64
# Errors of zipfile and the unpickler for damaged input.
DAMAGE = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    struct.error,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    NotImplementedError,  # zipfile, for an unknown compression or version
    OverflowError,
    RuntimeError,
    MemoryError,
    RecursionError,
)


class StorageRef(NamedTuple):
    dtype: np.dtype
    key: str
    size: int


class _Tensor(NamedTuple):
    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _StateDict(dict):
    """An OrderedDict in the file; attributes that a pickle may set on it (`_metadata`) are dropped."""

    def __setstate__(self, state: object) -> None:
        pass


class CallableName:
    """A name in the pickle that may be called; it has slots and no setters, so that the pickle cannot change it."""

    __slots__ = ("_call",)

    def __init__(self, call):
        object.__setattr__(self, "_call", call)

    def __call__(self, *args):
        return self._call(*args)

    def __setattr__(self, name: str, value: object) -> None:
        raise pickle.UnpicklingError("the pickle sets an attribute")

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("the pickle sets a state")


def _rebuild_tensor(storage, offset, shape, strides, *_unused) -> _Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, StorageRef) or not all(type(n) is int and n >= 0 for n in numbers):
        raise pickle.UnpicklingError("a tensor is not described by a storage and whole numbers")
    if len(shape) != len(strides):
        raise pickle.UnpicklingError("shape and strides of a tensor differ in length")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.size:
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


_NAMES = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_unused: data,
    ("collections", "OrderedDict"): lambda *items: _StateDict(*items),
    # Harmless values that DeepSpeed saves besides the weights.
    ("torch", "Size"): lambda *items: None,
    ("builtins", "set"): lambda *items: None,
    ("__builtin__", "set"): lambda *items: None,
}


class StateDictUnpickler(pickle.Unpickler):
    """An unpickler that knows the names of a state dict and refuses all others."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) in _NAMES:
            return CallableName(_NAMES[module, name])
        if module == "torch" and name in _STORAGES:
            return name
        raise InputError(f"it would load {module}.{name}, which a file of weights never needs")

    def persistent_load(self, pid: Any) -> StorageRef:
        kind, dtype, key, _location, size = pid
        if kind != "storage" or type(size) is not int or size < 0:
            raise pickle.UnpicklingError("a storage has a description that is not PyTorch's")
        return StorageRef(np.dtype(_STORAGES[dtype]), str(key), size)


def read_torch(path: Path) -> dict[str, FileTensor]:
    """Lists the tensors of a .pt file, flat or under `state_dict` or `module`, in the order of the file.

    Raises:
      InputError: the file would run code, is damaged, or is not a state dict in the zip format.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [
                name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")
            ]
            if len(pickles) != 1:
                raise _bad(path, "it has no data.pkl")
            root = pickles[0].removesuffix("data.pkl")
            if archive.getinfo(pickles[0]).file_size > LONGEST_PICKLE:
                raise _bad(path, "its data.pkl is too large")
            if root + "byteorder" in archive.namelist() and archive.read(root + "byteorder") != b"little":
                raise _bad(path, "it is not little-endian")
            content = _unpickle(path, archive.read(pickles[0]))
            state = state_dict(path, content)
            return {name: _locate(path, archive, root, name, tensor) for name, tensor in state.items()}
    except DAMAGE as error:
        raise _bad(path, f"{type(error).__name__}: {str(error)[:100]}") from error


def check_memo(data: bytes | BinaryIO, length: int) -> None:
    """Checks that no memo index exceeds the pickle's length, as it would make the unpickler allocate much memory.

    Args:
      data: the pickle, or a file positioned at its start, and afterwards at its end.
      length: largest possible number of bytes of the pickle.

    Raises:
      UnpicklingError: there is such an index.
    """
    for opcode, argument, _ in pickletools.genops(data):
        if "PUT" in opcode.name and argument is not None and argument > length:
            raise pickle.UnpicklingError("its pickle is damaged")


def _unpickle(path: Path, data: bytes) -> object:
    check_memo(data, len(data))
    try:
        return StateDictUnpickler(io.BytesIO(data)).load()
    except InputError as error:
        raise InputError(f"{path} is refused: {error}; only load files from people you trust") from error


def state_dict(path: Path, content: object) -> dict[str, _Tensor]:
    """The tensors of an unpickled state dict, or of the one under its key `state_dict` or `module`.

    Raises:
      InputError: the content is not a state dict.
    """
    for key in ("state_dict", "module"):  # Lightning's and DeepSpeed's
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise _bad(path, "it does not hold a state dict")
    tensors = {name: value for name, value in content.items() if isinstance(value, _Tensor)}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        raise _bad(path, "it holds no tensors by name")
    return tensors


def _locate(path: Path, archive: zipfile.ZipFile, root: str, name: str, tensor: _Tensor) -> FileTensor:
    storage = tensor.storage
    record = archive.getinfo(f"{root}data/{storage.key}")
    if (
        record.compress_type != zipfile.ZIP_STORED
        or record.file_size != storage.size * storage.dtype.itemsize
    ):
        raise _bad(path, f"the storage of {name} has the wrong size")
    # Name and extra field may have other lengths in the local header than in the zip's directory.
    assert archive.fp is not None  # open
    archive.fp.seek(record.header_offset)
    signature, name_length, extra_length = struct.unpack("<4s22xHH", archive.fp.read(30))
    if signature != b"PK\x03\x04":
        raise _bad(path, f"the storage of {name} is not where the zip's directory says")
    start = record.header_offset + 30 + name_length + extra_length
    contiguous = c_strides(tensor.shape) == tensor.strides or math.prod(tensor.shape) <= 1
    return FileTensor(
        path,
        name,
        tensor.shape,
        storage.dtype,
        start,
        record.file_size,
        crc32=record.CRC,
        offset=tensor.offset,
        strides=None if contiguous else tensor.strides,
    )


def c_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of an array in C order."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _bad(path: Path, why: str) -> InputError:
    return InputError(f"{path} is not a complete PyTorch file of weights: {why}; download or save it again")


def write_torch(
    file: BinaryIO,
    specs: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    arrays: Iterable[np.ndarray],
) -> None:
    """Writes a flat state dict that `torch.load(weights_only=True)` reads, tensor by tensor.

    Args:
      file: seekable file that is open for binary writing.
      specs: name -> (shape, dtype), in the order of the state dict.
      arrays: the tensors, in the same order; each may be freed when the next one is requested.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "archive/data.pkl", _pickle(specs))
        _add(archive, "archive/byteorder", b"little")
        for index, array in enumerate(arrays):
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            _add(archive, f"archive/data/{index}", data)
        _add(archive, "archive/version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, data: Any) -> None:
    """Adds a record whose bytes start at a multiple of 64, as PyTorch needs for memory maps."""
    assert archive.fp is not None  # open
    info = zipfile.ZipInfo(name)
    padding = -(archive.fp.tell() + 30 + len(name) + 4) % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    info.file_size = len(data)
    with archive.open(info, "w") as record:
        record.write(data)


def _pickle(specs: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> bytes:
    """The state dict's pickle (protocol 2), built from opcodes; Python's pickler would need PyTorch's classes."""
    out = [b"\x80\x02}("]
    for index, (name, (shape, dtype)) in enumerate(specs.items()):
        storage = b"ctorch\n" + _STORAGE_NAMES[dtype].encode() + b"\n"
        size = math.prod(shape)
        out += [
            _text(name),
            b"ctorch._utils\n_rebuild_tensor_v2\n(",
            b"(" + _text("storage") + storage + _text(str(index)) + _text("cpu") + _int(size) + b"tQ",
            _int(0) + _ints(shape) + _ints(c_strides(shape)),
            b"\x89ccollections\nOrderedDict\n)RtR",  # requires_grad False, no hooks; rebuild
        ]
    return b"".join([*out, b"u."])


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _ints(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(_int(value) for value in values) + b"t"
