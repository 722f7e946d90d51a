"""Converts PyTorch weights into a checkpoint directory, with a few leaves in memory at a time."""

import dataclasses
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from star_jax.checkpoints.directory import TOKENIZER_DIR, check_destination, create_checkpoint, save_component
from star_jax.checkpoints.trees import LazyArray, flatten, unflatten
from star_jax.config import ArchitectureConfig
from star_jax.config.cogvideox import CogVideoXConfig
from star_jax.convert import cogvideox_sizes
from star_jax.convert.families import get_family
from star_jax.convert.recognised import Recognised, networks_of
from star_jax.convert.rules import Plan, Rule, Shape, plan, shape_mismatches
from star_jax.convert.sources import Source, open_sources, sha256
from star_jax.convert.tensors import FLOATS, FileTensor, Tensors, cast, is_finite
from star_jax.convert.tokenizers import write_tokenizer
from star_jax.errors import InputError, RunError
from star_jax.files import is_url
from star_jax.init.leaves import fresh_leaf
from star_jax.models.architectures import build_model
from star_jax.presets import PRESETS, get_preset
from star_jax.progress import Reporter, progress

MAPPING_VERSION = 1  # version of the tables; increased when the result of one of them changes


@dataclass(frozen=True)
class _Job:
    """One source with its family and its conversion plan."""

    source: Source
    family: str
    plan: Plan


def convert_checkpoint(
    sources: Sequence[str | os.PathLike],
    destination: str | os.PathLike,
    *,
    format: str = "auto",
    preset: str | ArchitectureConfig | None = None,
    dtype: str | None = None,
    lora: str | int = "merge",
    allow_nan: bool = False,
    force: bool = False,
    expected_sha256: Sequence[str] = (),
    seed: int = 0,
    quiet: bool = False,
) -> dict:
    """Converts one or several sources into one checkpoint directory, which appears only when it is complete.

    Args:
      sources: files, folders or hf:// addresses, each with the weights of some components or with tokenizer files.
      destination: the directory to make.
      format: a family's name for all sources with weights, or `auto` to recognise each by its keys.
      preset: the sizes, by name or as a configuration; None for the preset with the shapes of the sources.
      dtype: dtype of the stored weights; None keeps that of the sources (float64 becomes float32).
      lora: treatment of low-rank updates of CogVideoX's transformer: `merge` them into their weights, `keep` them
        apart, or the rank of new ones to train.
      allow_nan: accept weights that are not finite.
      force: replace an existing checkpoint directory.
      expected_sha256: SHA-256 digests, each of which must match one of the sources' files.
      seed: seed of weights that come from no source.
      quiet: show no progress.

    Returns:
      The content of provenance.json: sources of all components, ignored keys, and leaves that start fresh.

    Raises:
      InputError: a source cannot be read, is damaged, has no known family or other sizes, or has weights that are
        not finite; or `destination` exists or cannot be made. Nothing is left behind.
      RunError: the disk is full.
    """
    check_destination(destination, force=force)
    if dtype is not None and dtype not in FLOATS:
        raise InputError(f"dtype is {dtype!r}; choose one of {', '.join(FLOATS)}")
    opened = [source for spec in sources for source in open_sources(str(spec))]
    if not is_url(destination):
        _check_outside(Path(destination).resolve(), opened)
    networks = networks_of([source for source in opened if source.tensors], format)
    config = choose_config(networks, preset, lora)
    jobs = [_Job(source, family, plan_for(source, family, config)) for source, family in networks]
    _check_distinct(jobs)
    components = {
        n: leaves for job in jobs for n, leaves in _lazy(job, config, dtype, allow_nan, seed).items()
    }
    needed = sum(leaf.nbytes for leaves in components.values() for leaf in leaves.values())
    _check_space(destination, needed)

    provenance: dict[str, Any] = {
        "star_jax": version("star_jax"),
        "mapping_version": MAPPING_VERSION,
        "preset": config.preset,
        "dtype": dtype or "as in the sources",
        "components": {n: _describe(job, n) for job in jobs for n in get_family(job.family).components},
    }
    files = sorted({file for source in opened for file in source.files})
    with (
        create_checkpoint(destination, config, provenance, force=force) as partial,
        ThreadPoolExecutor(1) as hasher,
        progress("Converting", needed, "bytes", quiet=quiet) as bar,
    ):
        digests = hasher.submit(lambda: {file: sha256(file) for file in files})
        for name, leaves in components.items():
            save_component(partial, name, unflatten(_watched(leaves, bar)))
        for source in opened:
            if source.tokenizer is not None:
                write_tokenizer(source.tokenizer, partial / TOKENIZER_DIR, config)
                provenance["tokenizer"] = source.label
        provenance["sources"] = {str(file): digest for file, digest in digests.result().items()}
        for digest in expected_sha256:
            if digest.lower() not in provenance["sources"].values():
                raise InputError(f"no source has SHA-256 {digest}; download it again")
    return provenance


def _check_outside(destination: Path, opened: Sequence[Source]) -> None:
    """Checks that no source lies in the destination, which --force replaces.

    Raises:
      InputError: a source lies in it.
    """
    for source in opened:
        if any(destination in Path(file).resolve().parents for file in source.files):
            raise InputError(
                f"{source.label} lies in {destination}, which would be replaced; choose another destination"
            )


def choose_config(
    networks: Sequence[Recognised],
    preset: str | ArchitectureConfig | None,
    lora: str | int = "merge",
) -> ArchitectureConfig:
    """The sizes of the model that all networks belong to.

    Raises:
      InputError: no preset has the shapes of all sources.
    """
    if any(get_family(network.family).sizes for network in networks):
        given = get_preset(preset) if isinstance(preset, str) else preset
        return _own_sizes(networks, given, lora)
    if lora != "merge":
        raise InputError(
            f"lora is {lora!r}, but only networks of CogVideoX have low-rank updates; leave --lora out"
        )
    if preset is not None:
        return _with_parts(get_preset(preset) if isinstance(preset, str) else preset, networks)
    for config in (_with_parts(config, networks) for config in PRESETS.values()):
        if all(_fits(source, family, config) for source, family in networks):
            return config
    labels = ", ".join(network.source.label for network in networks)
    raise InputError(
        f"no preset ({', '.join(PRESETS)}) has the shapes of {labels}; give the sizes with --preset"
    )


def _with_parts(config: ArchitectureConfig, networks: Sequence[Recognised]) -> ArchitectureConfig:
    """A preset's sizes with the parts that sources add to it."""
    for network in networks:
        config = get_family(network.family).completed(config)
    return config


def _own_sizes(
    networks: Sequence[Recognised], given: ArchitectureConfig | None, lora: str | int
) -> ArchitectureConfig:
    """The given sizes, or those of the sources' tensors."""
    if given is not None and not isinstance(given, CogVideoXConfig):
        raise InputError(
            f"preset {given.preset!r} is not one of CogVideoX, but the sources are; leave --preset out, or choose "
            "another"
        )
    config = given or cogvideox_sizes.published("cogvideox-5b")
    # The transformer comes first, because the autoencoder's own latent scale overrides the one that it implies.
    for source, name in sorted(networks, key=lambda n: "transformer" not in get_family(n.family).components):
        family = get_family(name)
        prefix = family.prefix_in(source.tensors)
        if family.sizes is None:
            raise InputError(
                f"{source.label} is of family {name}, which does not belong to CogVideoX; convert it separately"
            )
        if prefix is None:
            raise InputError(
                f"{source.label} is not of family {name}, as it lacks {family.marks[0]}; choose another --format"
            )
        tensors = {
            key.removeprefix(prefix): tensor
            for key, tensor in source.tensors.items()
            if key.startswith(prefix)
        }
        if given is None:
            try:
                config = family.sizes(config, tensors, cogvideox_sizes.library_settings(source.files))
            except InputError as error:
                raise InputError(f"{source.label}: {error}") from error
        if "transformer" in family.components:
            transformer = cogvideox_sizes.with_lora(config.transformer, tensors, lora)
            config = dataclasses.replace(config, transformer=transformer)
    return config if given is not None else cogvideox_sizes.named(config)


def _fits(source: Source, family: str, config: ArchitectureConfig) -> bool:
    return get_family(family).in_preset(config) and preset_mismatches(source, family, config) == 0


def preset_mismatches(source: Source, family: str, config: ArchitectureConfig) -> int:
    """Counts the tensors of a source that do not fit a preset.

    Raises:
      InputError: the preset lacks a component of the family.
    """
    table = get_family(family).table_for(config, source.tensors)
    return shape_mismatches(table, source.tensors, _leaf_shapes(family, config))


def plan_for(source: Source, family: str, config: ArchitectureConfig) -> Plan:
    """The plan for one source, without reading its tensors.

    Raises:
      InputError: a key is unknown or missing, or a shape or dtype is wrong.
    """
    table = get_family(family).table_for(config, source.tensors)
    return plan(table, source.tensors, _leaf_shapes(family, config), source.label)


@functools.cache
def _leaf_shapes(family: str, config: ArchitectureConfig) -> dict[str, Shape]:
    return {
        f"{name}/{path}": leaf.shape
        for name in get_family(family).components
        for path, leaf in flatten(build_model(config).abstract(name)).items()
    }


def _check_distinct(jobs: Sequence[_Job]) -> None:
    seen: dict[str, str] = {}
    for job in jobs:
        for name in get_family(job.family).components:
            if name in seen:
                raise InputError(
                    f"{seen[name]} and {job.source.label} both contain {name}; choose one of them"
                )
            seen[name] = job.source.label


def _lazy(
    job: _Job, config: ArchitectureConfig, dtype: str | None, allow_nan: bool, seed: int
) -> dict[str, dict[str, LazyArray]]:
    """Every leaf of a source's components, by component and path."""
    tensors, shapes = job.source.tensors, _leaf_shapes(job.family, config)
    common = FLOATS[dtype] if dtype else _widest(tensors.values())
    components: dict[str, dict[str, LazyArray]] = {name: {} for name in get_family(job.family).components}
    for leaf, shape in shapes.items():
        component, path = leaf.split("/", 1)
        if leaf in job.plan.fresh:
            lazy = fresh_leaf(leaf, shape, common, job.plan.fresh[leaf], seed)
        elif leaf in job.plan.computed:
            make = job.plan.computed[leaf]
            lazy = LazyArray(shape, common, functools.partial(_cast, make, common))
        else:
            rules = job.plan.rules[leaf]
            sources = [tensors[key] for rule in rules for key in rule.sources]
            stored = FLOATS[dtype] if dtype else _widest(sources)
            lazy = LazyArray(shape, stored, _reader(tensors, rules, shape, stored, allow_nan))
        components[component][path] = lazy
    return components


def _cast(make: Callable[[], np.ndarray], dtype: np.dtype) -> np.ndarray:
    return make().astype(dtype)


def _stored_dtype(tensor: FileTensor) -> np.dtype:
    return tensor.dtype if tensor.dtype in FLOATS.values() else FLOATS["float32"]


def _widest(tensors: Iterable[FileTensor]) -> np.dtype:
    return max((_stored_dtype(tensor) for tensor in tensors), key=lambda dtype: dtype.itemsize)


def _reader(
    tensors: Tensors, rules: Sequence[Rule], shape: Shape, dtype: np.dtype, allow_nan: bool
) -> Callable[[], np.ndarray]:
    """A function that reads a leaf from its source, or from one source per layer."""

    def read_one(rule: Rule) -> np.ndarray:
        array = rule.read(tensors)
        if not allow_nan and not is_finite(array):
            raise InputError(
                f"{tensors[rule.source].path}: {rule.source} has values that are not finite; download it again, or "
                "pass --allow-nan"
            )
        return cast(array, dtype, rule.source)

    def read() -> np.ndarray:
        if rules[0].layer is None:
            return np.ascontiguousarray(read_one(rules[0]))
        leaf = np.empty(shape, dtype)
        # As integers, because numpy is half as fast at transposing ml_dtypes' bfloat16.
        bits = np.dtype(f"u{dtype.itemsize}")
        for rule in rules:
            leaf.view(bits)[rule.layer] = read_one(rule).view(bits)
        return leaf

    return read


def _check_space(destination: str | os.PathLike, needed: int) -> None:
    """Checks the free space, for a bucket that of the folder for temporary files.

    Raises:
      RunError: there is not enough.
    """
    place = tempfile.gettempdir() if is_url(destination) else Path(destination).absolute().parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise RunError(
            f"{destination} needs {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free; "
            "free disk space, choose another destination, or pass --dtype bfloat16"
        )


def _watched(leaves: dict[str, LazyArray], bar: Reporter) -> dict[str, LazyArray]:
    """The same leaves, which advance the bar when they are read."""

    def watch(leaf: LazyArray) -> LazyArray:
        def read() -> np.ndarray:
            array = leaf.read()
            bar.advance(leaf.nbytes)
            return array

        return LazyArray(leaf.shape, leaf.dtype, read)

    return {path: watch(leaf) for path, leaf in leaves.items()}


def _describe(job: _Job, component: str) -> dict:
    """The entry of one component in provenance.json."""
    prefix = component + "/"
    rules = {leaf: rules for leaf, rules in job.plan.rules.items() if leaf.startswith(prefix)}
    merged = [leaf for leaf, rules in rules.items() if any(rule.update for rule in rules)]
    return {
        "source": job.source.label,
        "family": job.family,
        "converted": len(rules),
        "fresh": {leaf: how for leaf, how in job.plan.fresh.items() if leaf.startswith(prefix)},
        "ignored": job.plan.ignored,
    } | ({"merged": merged} if merged else {})
