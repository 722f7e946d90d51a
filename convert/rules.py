"""The rule engine: which source tensor becomes which leaf, and back.

A table is generated from the sizes of a model, so that it has every source key in full, in the original's order.
Each key has a rule or matches one of the family's patterns of ignored keys, each leaf has a source or is one of the
family's fresh leaves, and all shapes are known before anything is read.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from star_jax.convert.tensors import FLOATS, Tensors
from star_jax.errors import InputError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Converts an array from PyTorch's axes to Flax's, and back.

    Attributes:
      to_jax: source array -> leaf.
      to_torch: leaf -> source array.
    """

    to_jax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]

    def torch_shape(self, shape: Shape) -> Shape:
        """The source's shape, from the leaf's shape."""
        return self.to_torch(np.broadcast_to(np.int8(0), shape)).shape


def _pointwise(axes: int) -> Layout:
    """A pointwise convolution, stored with `axes` trailing axes of size 1, used as a linear map."""
    return Layout(lambda x: x.reshape(x.shape[:2]).T, lambda x: x.T.reshape(x.T.shape + (1,) * axes))


SAME = Layout(lambda x: x, lambda x: x)
LINEAR = Layout(lambda x: x.T, lambda x: x.T)  # (out, in) <-> (in, out)
CONV = Layout(  # (out, in, *window) <-> (*window, in, out)
    lambda x: np.moveaxis(x, (0, 1), (-1, -2)), lambda x: np.moveaxis(x, (-1, -2), (0, 1))
)
POINT1 = _pointwise(1)
POINT2 = _pointwise(2)
POINT3 = _pointwise(3)


class Update(NamedTuple):
    """A low-rank update that is added to a weight as it is read: B A / rank, in float32.

    Attributes:
      down: key of A, (rank, in).
      up: key of B, (out, rank).
    """

    down: str
    up: str

    def added_to(self, weight: np.ndarray, tensors: Tensors) -> np.ndarray:
        """The weight (out, in) with the update, float32."""
        down, up = (tensors[key].read().astype(np.float32) for key in self)
        return weight.astype(np.float32) + (up @ down) / np.float32(len(down))


@dataclass(frozen=True)
class Rule:
    """Maps one source key, or a part of it, to one leaf, or to one layer of a stacked leaf.

    Attributes:
      source: the key in the file.
      target: `component/path` of the leaf.
      layout: conversion of the axes.
      part: (i, n) for the i-th of n equal slices of the source's first axis (fused projections), or, if i is a
        tuple, for those slices one after the other; None for the whole source.
      channels: number of the source's first input channels (second axis) that are used; None for all.
      layer: index along the first axis of a stacked leaf; None for the whole leaf.
      update: low-rank update that is added to the source before its axes are converted.
    """

    source: str
    target: str
    layout: Layout
    part: tuple[int | tuple[int, ...], int] | None = None
    channels: int | None = None
    layer: int | None = None
    update: Update | None = None

    @property
    def slices(self) -> tuple[int, ...]:
        """Indices of the source's equal slices that are used, in order."""
        index = 0 if self.part is None else self.part[0]
        return index if isinstance(index, tuple) else (index,)

    @property
    def sources(self) -> tuple[str, ...]:
        """All keys that are read."""
        return (self.source, *(self.update or ()))

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Converts the source array to the leaf, or to its layer."""
        if self.part is not None:
            parts = np.split(array, self.part[1])
            array = (
                np.concatenate([parts[i] for i in self.slices])
                if len(self.slices) > 1
                else parts[self.slices[0]]
            )
        if self.channels is not None:
            array = array[:, : self.channels]
        return self.layout.to_jax(array)

    def read(self, tensors: Tensors) -> np.ndarray:
        """Reads the source and converts it to the leaf, or to its layer."""
        if self.update is None:
            return self.apply(tensors[self.source].read())
        whole = dataclasses.replace(self, layout=SAME, update=None)
        return self.layout.to_jax(self.update.added_to(whole.read(tensors), tensors))

    def source_shape(self, leaf_shape: Shape) -> Shape:
        """The source's shape, from the leaf's shape; with `channels`, only the part that is used."""
        shape = self.layout.torch_shape(leaf_shape if self.layer is None else leaf_shape[1:])
        return shape if self.part is None else (shape[0] // len(self.slices) * self.part[1], *shape[1:])


@dataclass(frozen=True)
class Module:
    """A module's parameters: (source name, leaf name, layout) of each."""

    leaves: tuple[tuple[str, str, Layout], ...]

    def rules(self, source: str, target: str) -> list[Rule]:
        return [Rule(f"{source}.{key}", f"{target}/{leaf}", layout) for key, leaf, layout in self.leaves]


_BIAS = ("bias", "bias", SAME)
NORM = Module((("weight", "scale", SAME), _BIAS))
EMBEDDING = Module((("weight", "embedding", SAME),))
DENSE = Module((("weight", "kernel", LINEAR), _BIAS))
DENSE_NO_BIAS = Module((("weight", "kernel", LINEAR),))
CONVOLUTION = Module((("weight", "kernel", CONV), _BIAS))
CONVOLUTION_NO_BIAS = Module((("weight", "kernel", CONV),))
POINTWISE_1D = Module((("weight", "kernel", POINT1), _BIAS))
POINTWISE_2D = Module((("weight", "kernel", POINT2), _BIAS))
POINTWISE_3D = Module((("weight", "kernel", POINT3), _BIAS))


@dataclass(frozen=True)
class Table:
    """A family's rules for given sizes.

    Attributes:
      rules: rules in the order of the original's state dict.
      ignored: full-match patterns of source keys that are not used.
      fresh: full-match patterns of leaves that the family does not have, and how each starts.
      computed: leaves that follow from the sizes -> function that makes them.
    """

    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    fresh: tuple[tuple[str, str], ...] = ()
    computed: Mapping[str, Callable[[], np.ndarray]] = field(default_factory=dict)

    def by_source(self) -> dict[str, list[Rule]]:
        """The rules of each source key, in order."""
        return _grouped(self.rules, lambda rule: rule.source)

    def by_target(self) -> dict[str, list[Rule]]:
        """The rules of each leaf: one for the whole leaf, or one per layer."""
        return _grouped(self.rules, lambda rule: rule.target)

    def source_keys(self) -> dict[str, None]:
        """All keys that a source must have, in order."""
        return dict.fromkeys(key for rule in self.rules for key in rule.sources)


def _grouped(rules: Iterable[Rule], key: Callable[[Rule], str]) -> dict[str, list[Rule]]:
    grouped: dict[str, list[Rule]] = {}
    for rule in rules:
        grouped.setdefault(key(rule), []).append(rule)
    return grouped


@dataclass(frozen=True)
class Plan:
    """The plan for one source: rules of each leaf, fresh leaves, ignored keys and computed leaves."""

    rules: dict[str, list[Rule]]
    fresh: dict[str, str]
    ignored: list[str]
    computed: dict[str, Callable[[], np.ndarray]] = field(default_factory=dict)


def plan(table: Table, tensors: Tensors, leaves: Mapping[str, Shape], label: str) -> Plan:
    """Checks a source against a table, without reading its tensors.

    Args:
      table: table of the family.
      tensors: tensors of the source.
      leaves: `component/path` -> shape of every leaf that is needed from the source.
      label: name of the source in messages.

    Raises:
      InputError: a key is unknown or missing, a leaf has no source, or a shape or dtype is wrong.
    """
    needed = table.source_keys()
    others = [key for key in tensors if key not in needed]
    ignored = [key for key in others if _matches(table.ignored, key)]
    if unknown := [key for key in others if not _matches(table.ignored, key)]:
        raise InputError(f"{label} has keys that no rule knows: {_some(unknown)}; choose the right --format")
    if missing := [key for key in needed if key not in tensors]:
        raise InputError(
            f"{label} lacks keys: {_some(missing)}; download it again, or choose the right --format"
        )
    rules = table.by_target()
    fresh = {}
    for leaf in leaves:
        if leaf not in rules and leaf not in table.computed:
            starts = [how for pattern, how in table.fresh if re.fullmatch(pattern, leaf)]
            if len(starts) != 1:
                raise InputError(
                    f"{label} has no weights for the network's {leaf}; choose the right --format"
                )
            fresh[leaf] = starts[0]
    if surplus := [leaf for leaf in rules if leaf not in leaves]:
        raise InputError(f"{label}: the network has no leaf {_some(surplus)}; choose the right --preset")
    for leaf, parts in rules.items():
        _check_layers(leaf, parts, leaves[leaf], label)
        for rule in parts:
            _check(rule, tensors, leaves[leaf], label)
    return Plan(rules, fresh, ignored, dict(table.computed))


def shape_mismatches(table: Table, tensors: Tensors, leaves: Mapping[str, Shape]) -> int:
    """Counts the rules whose key or leaf is missing or has another shape; 0 means that the sizes are right."""
    return sum(
        any(key not in tensors for key in rule.sources)
        or rule.target not in leaves
        or (rule.layer is not None and rule.layer >= leaves[rule.target][0])
        or _taken_shape(rule, tensors[rule.source].shape) != rule.source_shape(leaves[rule.target])
        for rule in table.rules
    )


def _check_layers(leaf: str, rules: list[Rule], shape: Shape, label: str) -> None:
    layers = [rule.layer for rule in rules]
    if layers not in ([None], list(range(shape[0])) if shape else []):
        raise InputError(
            f"{label} has {len(layers)} layers of {leaf}, but the network has {shape[0]}; choose the right --preset"
        )


def _check(rule: Rule, tensors: Tensors, leaf_shape: Shape, label: str) -> None:
    tensor = tensors[rule.source]
    expected = rule.source_shape(leaf_shape)
    if _taken_shape(rule, tensor.shape) != expected:
        raise InputError(
            f"{label}: {rule.source} is {tensor.shape}, expected {expected}; choose the right --preset"
        )
    if rule.update is not None:
        _check_update(rule.update, rule, expected, tensors, label)
    for key in rule.sources:
        if tensors[key].dtype not in FLOATS.values() and tensors[key].dtype != np.float64:
            raise InputError(
                f"{label}: {key} is {tensors[key].dtype}, expected floating-point weights; give the original file"
            )


def _check_update(update: Update, rule: Rule, expected: Shape, tensors: Tensors, label: str) -> None:
    down, up = tensors[update.down].shape, tensors[update.up].shape
    rows = expected[0] // (rule.part[1] if rule.part else 1) * len(rule.slices)
    rank = down[0] if down else 0
    if (down, up) != ((rank, expected[1]), (rows, rank)) or not rank:
        raise InputError(
            f"{label}: {update.down} is {down} and {update.up} is {up}, expected (rank, {expected[1]}) and "
            f"({rows}, rank); download it again"
        )


def _taken_shape(rule: Rule, shape: Shape) -> Shape:
    if rule.channels is None or len(shape) < 2:
        return shape
    return (shape[0], min(shape[1], rule.channels), *shape[2:])


def _matches(patterns: tuple[str, ...], key: str) -> bool:
    return any(re.fullmatch(pattern, key) for pattern in patterns)


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest
