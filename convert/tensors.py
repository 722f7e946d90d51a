"""Tensors in files on disk, which are read on demand and never through a memory map.

Mapped pages count as resident memory once touched; plain reads leave them to the page cache, so that a file larger
than memory can be converted.
"""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from star_jax.errors import InputError

FLOATS = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}


@dataclass(frozen=True)
class FileTensor:
    """A tensor that is stored uncompressed in a file.

    Attributes:
      path: the file.
      name: key of the tensor.
      shape: shape of the tensor.
      dtype: dtype of the tensor (little-endian).
      start: position in the file of the block of bytes that contains the tensor.
      length: number of bytes of the block.
      crc32: checksum of the block, if the format has one.
      offset: position of the first element within the block, in elements.
      strides: strides in elements; None for C order.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int
    length: int
    crc32: int | None = None
    offset: int = 0
    strides: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def read(self) -> np.ndarray:
        """Reads the tensor, in C order.

        Raises:
          InputError: the file is truncated, or its checksum is wrong.
        """
        data = np.empty(self.length, np.uint8)
        with open(self.path, "rb") as file:
            file.seek(self.start)
            if file.readinto(data.data) != self.length:
                raise InputError(f"{self.path} ends within tensor {self.name}; download it again")
        if self.crc32 is not None and zlib.crc32(data.data) != self.crc32:
            raise InputError(
                f"{self.path}: the checksum of tensor {self.name} is wrong; the file is damaged, download it again"
            )
        elements = data.view(self.dtype)[self.offset :]
        if self.strides is None:
            return elements[: self.size].reshape(self.shape)
        strides = tuple(step * self.dtype.itemsize for step in self.strides)
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(elements, self.shape, strides))


@dataclass(frozen=True)
class ArrayTensor:
    """A tensor in memory, from a small file that cannot be read in pieces."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def size(self) -> int:
        return self.array.size

    def read(self) -> np.ndarray:
        """The array, in C order."""
        return np.ascontiguousarray(self.array)


Tensors = Mapping[str, FileTensor | ArrayTensor]


def is_finite(array: np.ndarray) -> bool:
    """Whether no element is NaN or infinite."""
    # If any element is NaN or infinite, so are the extremes; this needs no array of flags.
    extremes = (array.min(), array.max()) if array.size else ()
    return all(math.isfinite(float(value)) for value in extremes)


def cast(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """The array in another floating-point dtype.

    Raises:
      InputError: a finite number is too large for the dtype.
    """
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        result = array.astype(dtype)
        # Rounding keeps the order, so it suffices to check the extremes; scanning half precision would be slow.
        extremes = [bound.astype(dtype) for bound in (array.min(), array.max())] if array.size else []
    if not all(map(np.isfinite, map(float, extremes))) and is_finite(array):
        raise InputError(f"{name} has numbers too large for {dtype}; choose --dtype bfloat16 or float32")
    return result
