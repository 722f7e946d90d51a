"""A cache of compiled programs, so that a second run of the same step in a process need not compile again.

Two programs are the same if their lowered texts are equal: a text contains every operation, constant, sharding and
donation, whatever objects it was traced from. So no code has to list its dependencies, and no objective is kept
alive.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import jax
from jax.sharding import Mesh

_KEPT = 8  # number of most recently used programs
_programs: OrderedDict[Hashable, jax.stages.Compiled] = OrderedDict()


def jit_and_find(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit` for the methods of an objective: an equal method of another objective finds the same programs.

    `jax.jit` alone caches programs by function, and a method of another object is another function.
    """
    jitted = jax.jit(function)
    found: dict[Hashable, jax.stages.Compiled] = {}

    def call(*args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args)
        mesh = jax.sharding.get_mesh()
        placed = tuple(getattr(leaf, "sharding", None) for leaf in leaves)
        key = (tree, mesh, tuple(jax.typeof(leaf) for leaf in leaves), placed)
        if key not in found:
            devices = mesh if not mesh.empty else frozenset().union(*(p.device_set for p in placed if p))
            found[key] = compile_or_find(jitted.lower(*args), devices)
        return found[key](*args)

    return call


def compile_or_find(
    lowered: jax.stages.Lowered, devices: Mesh | frozenset[jax.Device]
) -> jax.stages.Compiled:
    """Compiles a program for a mesh or for single devices, unless this process has compiled the same one before."""
    text = lowered.as_text()
    if "callback" in text:  # the text does not identify the function that is called
        return lowered.compile()
    key = (hashlib.sha256(text.encode()).digest(), lowered.in_tree, lowered.out_tree, devices)
    if key not in _programs:
        _programs[key] = lowered.compile()
    _programs.move_to_end(key)
    while len(_programs) > _KEPT:
        _programs.popitem(last=False)
    return _programs[key]
