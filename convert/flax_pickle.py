"""Pickles of Flax parameters (nested dicts of NumPy arrays), read without running any code in them.

The unpickler knows the three names that a NumPy array is made of and refuses all others.
"""

import io
import math
import pickle
from pathlib import Path

import numpy as np

from star_jax.convert.tensors import ArrayTensor
from star_jax.convert.torch_file import DAMAGE, CallableName, check_memo
from star_jax.errors import InputError

_LARGEST = 2**30
_DTYPES = {"f2": np.float16, "f4": np.float32, "f8": np.float64}


class _Dtype:
    """Result of `numpy.dtype(code, False, True)`, whose state must be little-endian."""

    __slots__ = ("code",)

    def __init__(self, code: object, *_flags: object):
        if code not in _DTYPES:
            raise pickle.UnpicklingError(f"dtype {code!r} is not a float")
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        if state[1] != "<":
            raise pickle.UnpicklingError("an array is not little-endian")


class _Array:
    """Result of `_reconstruct(ndarray, (0,), b'b')`, whose state holds shape, dtype, order and bytes."""

    __slots__ = ("value",)

    def __init__(self, *_arguments: object):
        self.value: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _version, shape, dtype, is_fortran, data = state
        sizes_ok = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not sizes_ok or not isinstance(dtype, _Dtype) or type(data) is not bytes:
            raise pickle.UnpicklingError("an array has a description that is not NumPy's")
        kind = np.dtype(_DTYPES[dtype.code])
        if len(data) != math.prod(shape) * kind.itemsize:
            raise pickle.UnpicklingError("the bytes of an array do not fit its shape")
        self.value = np.frombuffer(data, kind).reshape(shape, order="F" if is_fortran else "C")


class _NdarrayName:
    """Stands for the class `numpy.ndarray`, which is only an argument in such files."""


_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _NdarrayName,
    ("numpy", "dtype"): _Dtype,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _NAMES:
            raise InputError(f"it would load {module}.{name}, which a file of weights never needs")
        return CallableName(_NAMES[module, name])


def read_flax_pickle(path: Path) -> dict[str, ArrayTensor]:
    """Reads the arrays of a pickled tree of parameters, by path (`AlexNet_0/Conv_0/kernel`).

    Raises:
      InputError: the file would run code, is damaged, or is not a tree of arrays.
    """
    if path.stat().st_size > _LARGEST:
        raise _bad(path, "it is larger than 1 GiB")
    data = path.read_bytes()
    try:
        check_memo(data, len(data))
        arrays = dict(_leaves("", _Unpickler(io.BytesIO(data)).load()))
    except InputError as error:
        raise InputError(f"{path} is refused: {error}; only load files from people you trust") from error
    except DAMAGE as error:
        raise _bad(path, f"{type(error).__name__}: {str(error)[:100]}") from error
    if not arrays:
        raise _bad(path, "it holds no arrays")
    return arrays


def _leaves(prefix: str, node: object):
    if isinstance(node, _Array) and node.value is not None:
        yield prefix, ArrayTensor(node.value)
    elif isinstance(node, dict) and all(isinstance(key, str) for key in node):
        for key, child in node.items():
            yield from _leaves(f"{prefix}/{key}" if prefix else key, child)
    else:
        raise pickle.UnpicklingError(
            f"{prefix or 'the root'} is neither a dict with string keys nor an array"
        )


def _bad(path: Path, why: str) -> InputError:
    return InputError(f"{path} is not a complete pickle of Flax parameters: {why}; download it again")
