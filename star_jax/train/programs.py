"""Compiled programs that a process keeps, so that a second run of the same step finds the first one's.

Two programs are the same if their lowered texts are: these have every operation, constant, sharding and donation,
whatever objects they were traced from. So nothing has to say what it depends on, and no objective is kept alive.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Hashable

import jax
from jax.sharding import Mesh

_KEPT = 8  # the last ones used
_programs: OrderedDict[Hashable, jax.stages.Compiled] = OrderedDict()


def compile_or_find(lowered: jax.stages.Lowered, mesh: Mesh) -> jax.stages.Compiled:
    """Compiles a program for the devices of a mesh, unless this process has compiled the same one before."""
    text = lowered.as_text()
    if "callback" in text:  # the text does not say what is called
        return lowered.compile()
    key = (hashlib.sha256(text.encode()).digest(), lowered.in_tree, lowered.out_tree, mesh)
    if key not in _programs:
        _programs[key] = lowered.compile()
    _programs.move_to_end(key)
    while len(_programs) > _KEPT:
        _programs.popitem(last=False)
    return _programs[key]
