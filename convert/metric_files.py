"""Weights of metrics: authors' files are read safely and converted once to `NETWORK.safetensors` in a folder."""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from star_jax.convert.flax_pickle import read_flax_pickle
from star_jax.convert.legacy_torch_file import is_legacy_torch, read_legacy_torch
from star_jax.convert.metric_networks import (
    METRIC_NETWORKS,
    is_authors_file,
    networks_in,
    read_network,
    without_prefix,
)
from star_jax.convert.sources import read_tensors, sha256
from star_jax.convert.tensors import ArrayTensor, Tensors
from star_jax.errors import InputError, RunError
from star_jax.files import appearing

Leaves = dict[str, np.ndarray]


def read_metric_tensors(path: Path) -> Tensors:
    """Lists the tensors of an authors' file: PyTorch (new or old format), safetensors, Flax pickle, .npz or .mat.

    Raises:
      InputError: the file cannot be read, is damaged or of another kind, or is a pickle that would run code.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file; check the path")
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix == ".mat":
        return _read_mat(path)
    if is_legacy_torch(path):
        return without_prefix(read_legacy_torch(path))
    with open(path, "rb") as file:
        is_pickle = file.read(1) == b"\x80"
    return read_flax_pickle(path) if is_pickle else without_prefix(read_tensors(path))


def gives_metric_network(path: Path) -> bool:
    """Whether the keys of a file are those of a network of a metric."""
    try:
        tensors = read_metric_tensors(path)
    except InputError:
        return False
    return any(
        table.rules[0].source in tensors for network in METRIC_NETWORKS.values() for table in network.tables
    )


def describe_metric_file(path: Path) -> str:
    """Description of an authors' file and the networks in it.

    Raises:
      InputError: see `read_metric_tensors` and `networks_in`.
    """
    tensors = read_metric_tensors(path)
    digest = sha256(path)
    lines = [f"{path}: {len(tensors)} tensors, SHA-256 {digest}"]
    for name in networks_in(tensors, str(path)):
        whose = "the authors' file" if is_authors_file(name, digest) else "not the authors' file"
        lines.append(f"  gives: {name} ({METRIC_NETWORKS[name].description}); {whose}")
    return "\n".join(lines)


def convert_metric_file(path: Path, *, vouched: Collection[str] = ()) -> dict[str, tuple[Leaves, dict]]:
    """The networks in an authors' file: name -> (leaves, source).

    Args:
      path: the file.
      vouched: SHA-256 of files that the user accepts even if they are not the authors'.

    Raises:
      InputError: see `read_metric_tensors` and `networks_in`; or the file is not the authors', so that scores could
        not be compared with published ones.
    """
    tensors = read_metric_tensors(path)
    tables = networks_in(tensors, str(path))
    digest = sha256(path)
    if digest not in {text.lower() for text in vouched}:
        for name in tables:
            if not is_authors_file(name, digest):
                raise InputError(
                    f"{path} is not the authors' file of {name} (SHA-256 {digest}), so its scores could not be "
                    "compared with published ones; get theirs, or accept it: "
                    f"star-jax convert {path} FOLDER --sha256 {digest}"
                )
    source = {"source": path.name, "source_sha256": digest}
    return {name: (read_network(name, table, tensors, str(path)), source) for name, table in tables.items()}


def convert_metric_files(
    paths: Sequence[Path], folder: Path, *, vouched: Collection[str] = ()
) -> dict[str, Path]:
    """Converts authors' files into a folder, in which other networks stay as they are.

    Returns:
      Network -> the file that was written.

    Raises:
      InputError: see `convert_metric_file`; nothing is written then.
      RunError: the folder cannot be written.
    """
    converted = [convert_metric_file(path, vouched=vouched) for path in paths]
    return {
        name: save_network(folder, name, leaves, source)
        for networks in converted
        for name, (leaves, source) in networks.items()
    }


def save_network(folder: Path, name: str, leaves: Leaves, source: dict) -> Path:
    """Writes `NAME.safetensors`, which appears only when it is complete.

    Raises:
      RunError: the file cannot be written.
    """
    path = folder / f"{name}.safetensors"
    metadata = {"network": name, "content_sha256": _content_sha256(leaves), **source}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with appearing(path) as partial:
            partial.write_bytes(save(leaves, metadata))
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror}; check the folder and the free space"
        ) from error
    return path


def is_converted(path: Path) -> bool:
    """Whether a file has a name that `save_network` writes."""
    return path.suffix == ".safetensors" and path.stem in METRIC_NETWORKS


def load_network(path: Path) -> tuple[Leaves, dict]:
    """Reads a file that `save_network` wrote: leaves, and metadata with their source.

    Raises:
      InputError: the file is damaged, or not of this kind.
    """
    remedy = "delete it, so that it is converted again from the authors' file"
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            leaves = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); {remedy}") from error
    network = METRIC_NETWORKS.get(metadata.get("network", ""))
    if network is None or {key: leaf.shape for key, leaf in leaves.items()} != network.leaves:
        raise InputError(f"{path} is not a converted network of a metric; {remedy}")
    if metadata.get("content_sha256") != _content_sha256(leaves):
        raise InputError(f"{path} is damaged: its checksum is wrong; {remedy}")
    return leaves, metadata


def _content_sha256(leaves: Leaves) -> str:
    digest = hashlib.sha256()
    for key in sorted(leaves):
        digest.update(key.encode())
        digest.update(np.ascontiguousarray(leaves[key]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _read_npz(path: Path) -> dict[str, ArrayTensor]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: ArrayTensor(file[key]) for key in file.files}
    except Exception as error:  # zipfile and NumPy raise many kinds
        raise InputError(f"{path} is not a complete .npz file of arrays; download it again") from error


def _read_mat(path: Path) -> dict[str, ArrayTensor]:
    """The arrays of a MATLAB file; those in a cell array are numbered (`templateModel.0`)."""
    from scipy.io import loadmat

    try:
        content = loadmat(path)
    except Exception as error:  # SciPy raises many kinds
        raise InputError(f"{path} is not a complete MATLAB file; download it again") from error
    tensors: dict[str, ArrayTensor] = {}
    for name, value in content.items():
        if isinstance(value, np.ndarray) and value.dtype == object:
            cells = value.reshape(-1)
            tensors |= {f"{name}.{i}": ArrayTensor(np.asarray(cell)) for i, cell in enumerate(cells)}
        elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
            tensors[name] = ArrayTensor(value)
    return tensors
