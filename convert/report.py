"""Text reports: the result of a conversion, and the description of a source."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from star_jax.convert.cogvideox_report import presets_of, sizes_text
from star_jax.convert.converter import choose_config, plan_for, preset_mismatches
from star_jax.convert.families import FAMILIES, get_family
from star_jax.convert.recognised import Recognised, networks_of
from star_jax.convert.sources import Source, open_sources
from star_jax.errors import InputError
from star_jax.presets import PRESETS


def conversion_report(provenance: Mapping[str, Any]) -> str:
    """Sources of all components, fresh leaves, ignored keys, and the SHA-256 of the source files."""
    lines = [f"preset {provenance['preset']}, dtype {provenance['dtype']}"]
    for name, part in provenance["components"].items():
        lines.append(f"{name}: {part['converted']} leaves from {part['source']} ({part['family']})")
        kinds = {"fresh": list(part["fresh"]), "ignored": part["ignored"], "merged": part.get("merged", [])}
        for kind, keys in kinds.items():
            if keys:
                lines.append(f"  {kind}: {len(keys)} ({_summary(keys)}); provenance.json has all of them")
    if provenance.get("tokenizer"):
        lines.append(f"tokenizer: {provenance['tokenizer']}")
    for file, digest in provenance["sources"].items():
        lines.append(f"{digest}  {Path(file).name}")
    return "\n".join(lines)


def describe_source(spec: str, format: str = "auto") -> str:
    """Describes a source without converting it: files, tensors, dtypes, family and components.

    Raises:
      InputError: the source cannot be read.
    """
    return "\n".join(_describe(source, format) for source in open_sources(spec))


def _describe(source: Source, format: str) -> str:
    if source.tokenizer is not None:
        return f"{source.label}: tokenizer files ({', '.join(file.name for file in source.files)})"
    tensors = source.tensors
    dtypes = Counter(str(tensor.dtype) for tensor in tensors.values())
    size = sum(tensor.size for tensor in tensors.values())
    lines = [
        f"{source.label}: {len(tensors)} tensors, {size / 1e6:,.2f} M numbers in {len(source.files)} file(s)",
        "  dtypes: " + ", ".join(f"{dtype} {count}" for dtype, count in dtypes.items()),
    ]
    try:
        networks = networks_of([source], format)
    except InputError:
        first = ", ".join(list(tensors)[:5])
        return "\n".join([*lines, f"  family: none of {', '.join(FAMILIES)}", f"  first keys: {first}"])
    for network in networks:
        family = get_family(network.family)
        lines.append(f"  family: {network.family} ({family.description})")
        lines.append(f"  gives: {', '.join(family.components)}")
        lines += _own_sizes(network) if family.sizes else _preset_sizes(network)
    return "\n".join(lines)


def _preset_sizes(network: Recognised) -> list[str]:
    """Lines about a network whose sizes must be those of a preset."""
    source, name = network
    family = get_family(name)
    presets = {preset: family.completed(config) for preset, config in PRESETS.items()}
    misfits = {
        preset: preset_mismatches(source, name, config)
        for preset, config in presets.items()
        if family.in_preset(config)
    }
    fits = [preset for preset, count in misfits.items() if count == 0]
    closest = min(misfits, key=lambda preset: misfits[preset])
    known = family.table_for(presets[closest], source.tensors).source_keys()
    return [
        f"  preset: {', '.join(fits) or f'none ({misfits[closest]} tensors differ from {closest})'}",
        *_left_out([key for key in source.tensors if key not in known]),
    ]


def _own_sizes(network: Recognised) -> list[str]:
    """Lines about a network whose sizes are read from its tensors."""
    source, name = network
    (component,) = get_family(name).components
    try:
        config = choose_config([network], None)
        lines = ["  sizes: " + sizes_text(config, component, source.tensors)]
        lines.append(
            f"  preset: {', '.join(presets_of(config, component)) or 'none; it converts as cogvideox'}"
        )
        return lines + _left_out(plan_for(source, name, config).ignored)
    except InputError as error:
        return [f"  does not convert: {error}"]


def _left_out(keys: list[str]) -> list[str]:
    return [f"  left out: {len(keys)} keys ({_summary(keys)})"] if keys else []


def _summary(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
