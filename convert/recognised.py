"""The networks in sources: one in each, or those of a whole system that DeepSpeed saved in one file."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from star_jax.convert.families import embedded, get_family, recognise
from star_jax.convert.sources import Source


class Recognised(NamedTuple):
    """Tensors of one network (or of STAR's two), and their family."""

    source: Source
    family: str


def networks_in(source: Source, format: str) -> list[Recognised]:
    """The networks of a source: the one by which it is recognised, then further ones in the same file.

    Args:
      source: a source with tensors.
      format: a family's name, or `auto` to recognise it by the keys.

    Raises:
      InputError: the source is of no known family.
    """
    if format != "auto":
        return [Recognised(source, format)]
    family = recognise(source.tensors, source.label)
    beside = [
        Recognised(_under(source, prefix), name) for name, prefix in embedded(source.tensors, family).items()
    ]
    return [Recognised(source, family), *beside]


def networks_of(sources: Sequence[Source], format: str) -> list[Recognised]:
    """The networks to convert; one with its own file is not taken from the file of a whole system.

    Raises:
      InputError: a source is of no known family.
    """
    by_source = [networks_in(source, format) for source in sources]
    given = {name for own, *_ in by_source for name in get_family(own.family).components}
    networks = []
    for own, *others in by_source:
        others = [other for other in others if not given & set(get_family(other.family).components)]
        taken = {key for other in others for key in other.source.tensors}
        networks += [_without(own, taken), *others]
    return networks


def _under(source: Source, prefix: str) -> Source:
    tensors = {key: tensor for key, tensor in source.tensors.items() if key.startswith(prefix)}
    return dataclasses.replace(source, tensors=tensors)


def _without(network: Recognised, keys: set[str]) -> Recognised:
    if not keys:
        return network
    tensors = {key: tensor for key, tensor in network.source.tensors.items() if key not in keys}
    return network._replace(source=dataclasses.replace(network.source, tensors=tensors))
