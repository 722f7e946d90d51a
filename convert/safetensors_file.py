"""safetensors files: the header is read strictly and tensors lazily; files are written tensor by tensor.

Format: 8 bytes of header length, a JSON header {name: {dtype, shape, data_offsets}}, then the tensors without gaps.
The safetensors library is not used, because it maps the whole file into memory.
"""

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from star_jax.convert.tensors import FileTensor
from star_jax.errors import InputError

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_CODES = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # the format's own limit


def read_safetensors(path: Path) -> dict[str, FileTensor]:
    """Lists the tensors of a file in the order of its data.

    Raises:
      InputError: the file is truncated, or its header is not valid.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
            raise _bad(path, "the length of its header is impossible")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise _bad(path, f"its header is not JSON ({type(error).__name__})") from error
    if not isinstance(header, dict):
        raise _bad(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    tensors = [_tensor(path, name, entry, 8 + length) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: tensor.start)
    position = 8 + length
    for tensor in tensors:
        if tensor.start != position:
            raise _bad(path, f"tensor {tensor.name} leaves a gap or overlaps another")
        position += tensor.length
    if position != size:
        raise _bad(path, f"it has {size} bytes, but its header says {position}")
    return {tensor.name: tensor for tensor in tensors}


def _tensor(path: Path, name: str, entry: Any, data_start: int) -> FileTensor:
    try:
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        shape = tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        sizes_ok = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        if not sizes_ok or end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise _bad(path, f"the description of tensor {name[:100]!r} is wrong") from error
    return FileTensor(path, name, shape, dtype, data_start + begin, end - begin)


def _bad(path: Path, why: str) -> InputError:
    return InputError(f"{path} is not a complete safetensors file: {why}; download it again")


def write_safetensors(
    file: BinaryIO,
    specs: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    arrays: Iterable[np.ndarray],
    metadata: Mapping[str, str],
) -> None:
    """Writes tensors one by one.

    Args:
      file: file that is open for binary writing.
      specs: name -> (shape, dtype), in the order of the file.
      arrays: the tensors, in the same order; each may be freed when the next one is requested.
      metadata: strings for the header.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    position = 0
    for name, (shape, dtype) in specs.items():
        end = position + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for array in arrays:
        file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def is_safetensors(path: Path) -> bool:
    """Whether a file looks like safetensors: a possible header length, then a JSON object."""
    with open(path, "rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] <= os.path.getsize(path)
