"""Sources of weights: a file, a folder in Hugging Face's layout, or `hf://owner/repo[@revision]/path`."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from star_jax.convert.folders import (
    OPEN_CLIP_VOCABULARY,
    PIPELINE_FOLDERS,
    PIPELINE_INDEX,
    WEIGHT_SUFFIXES,
    choose_weights,
    tokenizer_files,
)
from star_jax.convert.hub import download
from star_jax.convert.legacy_torch_file import MAGIC as LEGACY_MAGIC
from star_jax.convert.legacy_torch_file import read_legacy_torch
from star_jax.convert.safetensors_file import is_safetensors, read_safetensors
from star_jax.convert.tensors import FileTensor
from star_jax.convert.torch_file import read_torch
from star_jax.errors import InputError

_INDEX_SUFFIXES = (".index.json", ".index.fp16.json")


@dataclass(frozen=True)
class Source:
    """Weights of one network (or of STAR's two), or tokenizer files.

    Attributes:
      label: the source as the user wrote it.
      tensors: tensors by key, in the file's order; empty for a tokenizer.
      files: all files of the source.
      tokenizer: folder or file with a tokenizer; None for weights.
    """

    label: str
    tensors: dict[str, FileTensor] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    tokenizer: Path | None = None


def open_sources(spec: str) -> list[Source]:
    """Opens a source from the command line.

    Raises:
      InputError: the source does not exist, cannot be downloaded, or has no weights that can be read.
    """
    path = download(spec) if spec.startswith("hf://") else Path(spec)
    if not path.exists():
        raise InputError(f"{spec} does not exist; give a file, a folder, or hf://owner/repo/path")
    if path.is_dir():
        return _open_folder(path, spec)
    return [_open_file(path, spec)]


def _open_file(path: Path, label: str) -> Source:
    if path.name == OPEN_CLIP_VOCABULARY:
        return Source(label, files=(path,), tokenizer=path)
    if path.name.endswith(_INDEX_SUFFIXES):
        return _open_index(path, label)
    return Source(label, read_tensors(path), (path,))


def _open_folder(folder: Path, label: str) -> list[Source]:
    if (folder / PIPELINE_INDEX).is_file():
        parts = [folder / name for name in PIPELINE_FOLDERS if (folder / name).is_dir()]
        return [source for part in parts for source in _open_folder(part, f"{label}/{part.name}")]
    sources = []
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file() or entry.is_symlink())
    if files := tuple(folder / name for name in tokenizer_files(names)):
        sources.append(Source(label, files=files, tokenizer=folder))
    if (chosen := choose_weights(names, label)) is not None:
        sources.append(_open_file(folder / chosen, label))
    if not sources:
        raise InputError(f"folder {label} holds no weights ({', '.join(WEIGHT_SUFFIXES)}); give a file")
    return sources


def index_shards(index: Path) -> dict[str, str]:
    """Reads an index of shards: key -> file name.

    Raises:
      InputError: the file is not an index, or a shard lies outside its folder.
    """
    try:
        shards = json.loads(index.read_text())["weight_map"]
        names_ok = all(isinstance(shard, str) and Path(shard).name == shard for shard in shards.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index} is not an index of shards; download it again") from error
    if not shards or not names_ok:
        raise InputError(f"{index} is not an index of shards; download it again")
    return shards


def _open_index(index: Path, label: str) -> Source:
    shards = index_shards(index)
    names = sorted(set(shards.values()))
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise InputError(
            f"{label} lacks shard {missing[0]} ({len(missing)} of {len(names)} are missing); download it again"
        )
    tensors: dict[str, Any] = {}
    for name in names:
        read = read_tensors(index.parent / name)
        if absent := [key for key, shard in shards.items() if shard == name and key not in read]:
            raise InputError(
                f"{index.parent / name} lacks {absent[0]}, which is in the index; download it again"
            )
        tensors |= read
    return Source(label, tensors, (index, *(index.parent / name for name in names)))


def read_tensors(path: Path) -> dict[str, FileTensor]:
    """Lists the tensors of a file of weights, whose format is recognised by its content.

    Raises:
      InputError: the file cannot be read, is damaged, or of another kind.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(64)
        if not start:
            raise InputError(f"{path} is empty; download it again")
        if start.startswith(b"version https://git-lfs"):
            raise InputError(f"{path} is a Git LFS pointer, not the file itself; run git lfs pull")
        if start.startswith(b"PK\x03\x04"):
            return read_torch(path)
        if start.startswith(LEGACY_MAGIC):
            return read_legacy_torch(path)
        if is_safetensors(path) or path.suffix == ".safetensors":
            return read_safetensors(path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}; check the path and its permissions"
        ) from error
    if start.startswith(b"\x80"):
        raise InputError(
            f"{path} is a plain pickle, not a file that PyTorch saved; load it and save its state dict with "
            "torch.save"
        )
    raise InputError(
        f"{path} is neither safetensors nor a PyTorch file of weights, or is damaged; download it again"
    )


def sha256(path: Path) -> str:
    """SHA-256 of a file, checked against the name that a Hugging Face cache gives the file.

    Raises:
      InputError: the hash differs from the name in the cache, because the download is incomplete.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(8 * 2**20):
            digest.update(chunk)
    real = path.resolve()
    cached = real.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", real.name)
    if cached and digest.hexdigest() != real.name:
        raise InputError(
            f"{path} has another SHA-256 than its cache says; delete {real} and download it again"
        )
    return digest.hexdigest()
