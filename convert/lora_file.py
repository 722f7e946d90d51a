"""Files of low-rank updates: safetensors with the names and axes of PyTorch's tools.

`unet.down_blocks.0.resnets.0.conv1.lora_A.weight` is [rank, in, *window], `...lora_B.weight` [out, rank, 1, ...];
module names are diffusers'. The header's metadata has `rank` and `alpha`; the factor of the updates is alpha /
rank.
"""

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from star_jax.checkpoints.trees import flatten, unflatten
from star_jax.convert.rules import CONV, LINEAR
from star_jax.convert.safetensors_file import is_safetensors, read_safetensors, write_safetensors
from star_jax.errors import InputError
from star_jax.files import appearing
from star_jax.models.lora import DOWN, UP

Tree = dict[Any, Any]
LORA_SUFFIX = ".safetensors"
_NAMES = {DOWN: "lora_A", UP: "lora_B"}


def write_lora(path: str | os.PathLike, lora: Tree, kernels: Mapping[str, Any], alpha: float) -> None:
    """Writes updates to a file, which appears only when it is complete.

    Args:
      path: file name that ends in .safetensors.
      lora: updates, a tree as in `star_jax.models.lora.lora_shapes`.
      kernels: path -> weight that is updated, for the windows of convolutions.
      alpha: factor of the updates times their rank.

    Raises:
      OSError: the disk is full or not writable.
    """
    leaves = flatten(lora)
    tensors = {_key(place): _to_torch(place, leaf, kernels) for place, leaf in leaves.items()}
    rank = next(leaf.shape[-1] for place, leaf in leaves.items() if place.endswith(DOWN))
    specs = {key: (tensor.shape, tensor.dtype) for key, tensor in tensors.items()}
    with appearing(Path(path)) as partial, open(partial, "wb") as file:
        write_safetensors(file, specs, tensors.values(), {"rank": str(rank), "alpha": repr(float(alpha))})


def read_lora(path: str | os.PathLike, shapes: Mapping[Any, Any] | None = None) -> tuple[Tree, float]:
    """Reads updates.

    Args:
      path: the file.
      shapes: shapes that the updates must have, as from `lora_shapes`; None to accept any.

    Returns:
      Updates, a tree as in `lora_shapes` of float32 NumPy arrays; and alpha.

    Raises:
      InputError: the file does not exist, is not one of low-rank updates, or does not fit `shapes`.
    """
    path = Path(path)
    if not path.is_file() or not is_safetensors(path):
        raise InputError(
            f"{path} is not a safetensors file of low-rank updates; star-jax assemble writes one"
        )
    tensors = read_safetensors(path)
    leaves = {}
    for key, tensor in tensors.items():
        place = _place(key)
        if place is None:
            raise InputError(
                f"{path} has a tensor {key}, which is not a low-rank update (lora_A, lora_B); give another file"
            )
        leaves[place] = _from_torch(place, tensor.read().astype(np.float32))
    for place in leaves:
        if place.removesuffix(DOWN).removesuffix(UP) + (UP if place.endswith(DOWN) else DOWN) not in leaves:
            raise InputError(f"{path} lacks the other half of {_key(place)}; download it again")
    if shapes is not None:
        _check(path, leaves, flatten(shapes))
    rank = next((leaf.shape[-1] for place, leaf in leaves.items() if place.endswith(DOWN)), 1)
    return unflatten(leaves), _alpha(path, rank)


def _alpha(path: Path, rank: int) -> float:
    """The header's `alpha`; without one, the rank, which makes the factor 1."""
    text = _metadata(path).get("alpha", rank)
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{path} has alpha {text!r}, which is not a number; export it again") from None


def _check(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for place in sorted(found.keys() ^ wanted.keys()):
        fault = "lacks" if place in wanted else "is of another network, as it has"
        raise InputError(f"{path} {fault} {_key(place)}; give a file of updates of this model")
    for place, leaf in wanted.items():
        if tuple(found[place].shape) != tuple(leaf.shape):
            raise InputError(
                f"{path} has {_key(place)} of {tuple(found[place].shape)}, expected {tuple(leaf.shape)}; set "
                "model.lora_rank to the file's rank"
            )


def _metadata(path: Path) -> dict[str, str]:
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length)).get("__metadata__", {})


def _key(place: str) -> str:
    module, _, name = place.rpartition("/")
    return f"{module.replace('/', '.')}.{_NAMES[name]}.weight"


def _place(key: str) -> str | None:
    for name, theirs in _NAMES.items():
        if key.endswith(f".{theirs}.weight"):
            return f"{key.removesuffix(f'.{theirs}.weight').replace('.', '/')}/{name}"
    return None


def _to_torch(place: str, leaf: Any, kernels: Mapping[str, Any]) -> np.ndarray:
    leaf = np.asarray(leaf, np.float32)
    window = tuple(kernels[f"{place.rpartition('/')[0]}/kernel"].shape[:-2])
    if not window:
        return LINEAR.to_torch(leaf)
    if place.endswith(UP):
        return CONV.to_torch(leaf.reshape(*(1,) * len(window), *leaf.shape))
    return CONV.to_torch(leaf.reshape(*window, -1, leaf.shape[-1]))


def _from_torch(place: str, tensor: np.ndarray) -> np.ndarray:
    array = LINEAR.to_jax(tensor) if tensor.ndim == 2 else CONV.to_jax(tensor)
    return array.reshape(-1, array.shape[-1]) if place.endswith(DOWN) else array.reshape(array.shape[-2:])
