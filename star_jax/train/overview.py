"""Table of the trained and frozen weights of a run, by component."""

import math

import jax

from star_jax.checkpoints.trees import flatten
from star_jax.train.state import Tree


def overview(trainable: Tree, frozen: Tree) -> str:
    """A table with the number of trained and frozen weights of each component.

    Args:
      trainable, frozen: trees of shapes by component.

    Raises:
      ValueError: a leaf is in both trees.
    """
    trees = [flatten(tree) for tree in (trainable, frozen)]
    if both := sorted(trees[0].keys() & trees[1].keys()):
        raise ValueError(f"{len(both)} leaves are both trained and frozen; the first is {both[0]}")
    components = sorted({path.split("/")[0] for leaves in trees for path in leaves})
    rows = [(name, _count(trees[0], name), _count(trees[1], name)) for name in components]
    total = ("total", sum(row[1] for row in rows), sum(row[2] for row in rows))
    lines = [("component", "trained weights", "frozen weights")]
    lines += [(name, f"{trained:,}", f"{left:,}") for name, trained, left in [*rows, total]]
    return "\n".join(f"  {name:<14}{trained:>18}{left:>18}" for name, trained, left in lines)


def _count(leaves: dict[str, jax.ShapeDtypeStruct], component: str) -> int:
    return sum(math.prod(leaf.shape) for path, leaf in leaves.items() if path.split("/")[0] == component)
