"""Reports for people: what a conversion did, and what a source is."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from star_jax.convert.converter import preset_mismatches
from star_jax.convert.families import FAMILIES, get_family, recognise
from star_jax.convert.sources import Source, open_sources
from star_jax.errors import InputError
from star_jax.presets import PRESETS


def conversion_report(provenance: Mapping[str, Any]) -> str:
    """Where each component came from, what was left out, what starts fresh, and the sources' SHA-256."""
    lines = [f"preset {provenance['preset']}, dtype {provenance['dtype']}"]
    for name, part in provenance["components"].items():
        lines.append(f"{name}: {part['converted']} leaves from {part['source']} ({part['family']})")
        kinds = {"fresh": list(part["fresh"]), "ignored": part["ignored"], "merged": part.get("merged", [])}
        for kind, keys in kinds.items():
            if keys:
                lines.append(f"  {kind}: {len(keys)} ({_summary(keys)}); all named in provenance.json")
    if provenance.get("tokenizer"):
        lines.append(f"tokenizer: {provenance['tokenizer']}")
    for file, digest in provenance["sources"].items():
        lines.append(f"{digest}  {Path(file).name}")
    return "\n".join(lines)


def describe_source(spec: str, format: str = "auto") -> str:
    """Describes a source without converting it: files, tensors, dtypes, family, what it would give.

    Raises:
      InputError: it cannot be read.
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
        family = recognise(tensors, source.label) if format == "auto" else format
    except InputError:
        first = ", ".join(list(tensors)[:5])
        return "\n".join([*lines, f"  family: none of {', '.join(FAMILIES)}", f"  first keys: {first}"])
    lines.append(f"  family: {family} ({get_family(family).description})")
    lines.append(f"  gives: {', '.join(get_family(family).components)}")
    presets = {name: get_family(family).completed(config) for name, config in PRESETS.items()}
    misfits = {
        name: preset_mismatches(source, family, config)
        for name, config in presets.items()
        if get_family(family).in_preset(config)
    }
    fits = [name for name, count in misfits.items() if count == 0]
    closest = min(misfits, key=lambda name: misfits[name])
    lines.append(f"  preset: {', '.join(fits) or f'none ({misfits[closest]} tensors differ from {closest})'}")
    table = get_family(family).table_for(presets[closest], tensors)
    known = table.source_keys()
    if others := [key for key in tensors if key not in known]:
        lines.append(f"  left out: {len(others)} keys ({_summary(others)})")
    return "\n".join(lines)


def _summary(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
