"""Exports checkpoints to files that the original code loads strictly, with a few leaves in memory at a time."""

import contextlib
import dataclasses
import itertools
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from star_jax.checkpoints.directory import component_metadata, iterate_layers, read_config
from star_jax.config import ArchitectureConfig, StarConfig
from star_jax.config.cogvideox import CogVideoXConfig
from star_jax.convert.cogvideox_sizes import cogvideox_library_config
from star_jax.convert.families import Family, get_family
from star_jax.convert.rules import Rule
from star_jax.convert.safetensors_file import write_safetensors
from star_jax.convert.sources import open_sources
from star_jax.convert.tensors import FLOATS, Tensors, cast
from star_jax.convert.torch_file import write_torch
from star_jax.errors import InputError, RunError
from star_jax.files import appearing, write_json
from star_jax.progress import Reporter, progress

_FILE_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")  # all but the first are PyTorch's
_FOLDER_FILES = {
    "svd-vae": "diffusion_pytorch_model.safetensors",
    "clip": "model.safetensors",
    "diffusers-cogvideox": "diffusion_pytorch_model.safetensors",
    "diffusers-cogvideox-vae": "diffusion_pytorch_model.safetensors",
    "t5-encoder": "model.safetensors",
}
Specs = dict[str, tuple[tuple[int, ...], np.dtype]]


def export_checkpoint(
    directory: str | os.PathLike,
    destination: str | os.PathLike,
    *,
    layout: str = "star",
    dtype: str | None = None,
    base: str | None = None,
    force: bool = False,
    quiet: bool = False,
) -> dict:
    """Writes weights under the original's keys, in the original's order.

    Args:
      directory: a checkpoint directory.
      destination: .safetensors or .pt (.pth, .bin, .ckpt) file, or, for the layouts of diffusers and transformers,
        a folder for `from_pretrained`.
      layout: the family whose keys are written, as for `convert_checkpoint`.
      dtype: dtype of the file's tensors; None keeps the stored one.
      base: an original file of that family, for weights that STAR does not have (I2VGen-XL's image conditioning,
        CLIP's vision tower); its keys, their order and their spelling are kept.
      force: replace an existing file.
      quiet: show no progress.

    Returns:
      `tensors` and `bytes` written, and `left_out`: leaves that the layout has no place for.

    Raises:
      InputError: `directory` is not a checkpoint or lacks a component, the layout or suffix is unknown, or
        `destination` exists.
      RunError: the disk is full.
    """
    target = Path(destination)
    config, family = read_config(directory), get_family(layout)
    if dtype is not None and dtype not in FLOATS:
        raise InputError(f"dtype is {dtype!r}; choose one of {', '.join(FLOATS)}")
    _check_target(target, layout, force=force)
    base_tensors = _open_base(base, family, layout) if base else {}
    rules = _rules(family, layout, config, base_tensors)
    names = sorted({rule.target.split("/", 1)[0] for parts in rules.values() for rule in parts})
    stored = {f"{n}/{path}": leaf for n in names for path, leaf in component_metadata(directory, n).items()}
    specs = _specs(rules, stored, base_tensors, FLOATS[dtype] if dtype else None)
    size = sum(math.prod(shape) * kind.itemsize for shape, kind in specs.values())
    if (free := shutil.disk_usage(target.absolute().parent).free) < size:
        raise RunError(
            f"{target} needs {size / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free; free disk space"
        )
    arrays = _arrays(directory, rules, specs, base_tensors)
    with (
        _appearing(target, layout, config) as path,
        open(path, "wb") as file,
        progress("Exporting", size, "bytes", quiet=quiet) as bar,
    ):
        arrays = _watched(arrays, bar)
        if path.suffix == ".safetensors":
            write_safetensors(file, specs, arrays, {"format": "pt"})
        else:
            write_torch(file, specs, arrays)
    covered = {rule.target for parts in rules.values() for rule in parts}
    left_out = [leaf for leaf in stored if leaf not in covered]
    return {"tensors": len(specs), "bytes": size, "left_out": left_out}


def _check_target(target: Path, layout: str, *, force: bool) -> None:
    if target.suffix not in _FILE_SUFFIXES and layout not in _FOLDER_FILES:
        raise InputError(
            f"layout {layout} is written as a file; end {target} in one of {', '.join(_FILE_SUFFIXES)}"
        )
    if not target.absolute().parent.is_dir():
        raise InputError(f"folder {target.absolute().parent} does not exist; create it first")
    if target.is_dir() or (target.exists() and not force):
        remedy = (
            "choose another name" if target.is_dir() else "choose another name, or pass --force to replace it"
        )
        raise InputError(f"{target} exists; {remedy}")


def _open_base(base: str, family: Family, layout: str) -> Tensors:
    (source,) = open_sources(base)
    if family.prefix_in(source.tensors) is None:
        raise InputError(f"{base} is not of family {layout}; give the original file with --base")
    return source.tensors


def _rules(family: Family, layout: str, config: ArchitectureConfig, base: Tensors) -> dict[str, list[Rule]]:
    """The rules of each key of the file; if a key fills two components, the first counts."""
    rules: dict[str, list[Rule]] = {}
    for source, parts in family.table_for(config, base).by_source().items():
        rules[source] = parts if parts[0].part else parts[:1]
        if parts[0].update:
            raise InputError(
                "the low-rank updates of this checkpoint are merged and cannot be separated again; export it "
                "without --base"
            )
        if parts[0].channels and not base:
            raise InputError(
                f"layout {layout} has weights that STAR does not have; give the original file with --base"
            )
    if missing := [source for source in rules if base and source not in base]:
        raise InputError(f"the original file (--base) lacks {missing[0]}; give one of the same sizes")
    return rules


def _specs(
    rules: dict[str, list[Rule]],
    stored: dict[str, jax.ShapeDtypeStruct],
    base: Tensors,
    dtype: np.dtype | None,
) -> Specs:
    """Shape and dtype of each key, in the order of the file: the base's, or the table's."""
    specs: Specs = {}
    for key in base or rules:
        if key not in rules:
            specs[key] = base[key].shape, base[key].dtype
            continue
        rule = rules[key][0]
        leaf = stored.get(rule.target)
        if leaf is None:
            raise InputError(f"the checkpoint has no leaf {rule.target}; convert it again")
        shape = rule.source_shape(leaf.shape)
        specs[key] = base[key].shape if rule.channels else shape, dtype or np.dtype(leaf.dtype)
    return specs


def _arrays(
    directory: str | os.PathLike, rules: dict[str, list[Rule]], specs: Specs, base: Tensors
) -> Iterator[np.ndarray]:
    """The file's tensors, in the order of `specs`."""
    leaves = _leaves(directory, [rule for key in specs for rule in rules.get(key, ())])
    for key, (shape, dtype) in specs.items():
        if key not in rules:
            yield base[key].read()
            continue
        array = _joined(rules[key], leaves)
        if channels := rules[key][0].channels:
            rest = base[key].read()[:, channels:]
            array = np.concatenate([array, rest.astype(array.dtype)], axis=1)
        if array.shape != shape:
            raise InputError(
                f"{key} would be {array.shape}, but the original is {shape}; give the right --base"
            )
        yield cast(array, dtype, key)


def _joined(rules: list[Rule], leaves: Iterator[np.ndarray]) -> np.ndarray:
    """One key's tensor: a leaf, or the slices of several leaves joined in order."""
    if rules[0].part is None:
        return rules[0].layout.to_torch(next(leaves))
    slices: dict[int, np.ndarray] = {}
    for rule in rules:
        held = rule.layout.to_torch(next(leaves))
        slices |= dict(zip(rule.slices, np.split(held, len(rule.slices)), strict=True))
    return np.concatenate([slices[i] for i in range(rules[0].part[1])])


def _watched(arrays: Iterator[np.ndarray], bar: Reporter) -> Iterator[np.ndarray]:
    """Yields the same arrays, and advances the bar when one was written."""
    for array in arrays:
        yield array
        bar.advance(array.nbytes)


def _leaves(directory: str | os.PathLike, rules: list[Rule]) -> Iterator[np.ndarray]:
    for component, run in itertools.groupby(rules, key=lambda rule: rule.target.split("/", 1)[0]):
        wanted = [(rule.target.split("/", 1)[1], rule.layer) for rule in run]
        yield from iterate_layers(directory, component, wanted)


@contextlib.contextmanager
def _appearing(target: Path, layout: str, config: ArchitectureConfig) -> Iterator[Path]:
    """Yields the path to write; the file, or its folder, appears as `target` at the end or not at all."""
    try:
        with appearing(target) as partial:
            if target.suffix in _FILE_SUFFIXES:
                yield partial
                return
            partial.mkdir()
            yield partial / _FOLDER_FILES[layout]
            write_json(partial / "config.json", _library_config(layout, config))
    except OSError as error:
        raise RunError(f"cannot write {target}: {error}; free disk space or choose another place") from error


def _library_config(layout: str, config: ArchitectureConfig) -> dict:
    """config.json for diffusers' or transformers' `from_pretrained`."""
    if isinstance(config, CogVideoXConfig):
        return cogvideox_library_config(layout, config)
    assert isinstance(config, StarConfig)
    if layout == "svd-vae":
        vae = config.vae
        return {
            "_class_name": "AutoencoderKLTemporalDecoder",
            "in_channels": vae.in_channels,
            "out_channels": vae.out_channels,
            "latent_channels": vae.latent_channels,
            "block_out_channels": vae.block_out_channels,
            "down_block_types": ["DownEncoderBlock2D"] * len(vae.block_out_channels),
            "layers_per_block": vae.layers_per_block,
            "scaling_factor": vae.scaling_factor,
            "force_upcast": True,
        }
    assert config.text_encoder is not None
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_act": "gelu",
        **dataclasses.asdict(config.text_encoder),
    }
