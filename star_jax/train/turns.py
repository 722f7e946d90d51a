"""Parts of the trained weights that take turns: parts that a step does not update stay exactly as they are.

A generator and its discriminators are trained like this. Every kind of turn has its own loss, and every part has
its own optimizer, whose moments, schedule and clipping cover that part alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from star_jax.train.config import OptimizerConfig
from star_jax.train.objective import Objective

Tree = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """Components that are updated together.

    Attributes:
      components: names of the components.
      turn: kind of turn at which they are updated.
      optimizer: settings of their optimizer.
    """

    components: tuple[str, ...]
    turn: str
    optimizer: OptimizerConfig


@dataclass(frozen=True)
class Turns:
    """The schedule of updates.

    Attributes:
      order: kind of turn of each step of a cycle.
      parts: the parts by name; every trained component is in one of them. The first part's learning rate is logged.
    """

    order: tuple[str, ...]
    parts: Mapping[str, Part]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The different kinds of turns."""
        return tuple(dict.fromkeys(self.order))

    def kind_at(self, step: jax.Array) -> jax.Array:
        """The kind of turn at a step, as an index into `kinds`."""
        positions = jnp.array([self.kinds.index(kind) for kind in self.order], jnp.int32)
        return positions[step % len(self.order)]

    def updates(self, part: str, steps: int) -> int:
        """Number of updates of a part within the first `steps` steps."""
        cycles, rest = divmod(steps, len(self.order))
        turn = self.parts[part].turn
        return cycles * self.order.count(turn) + self.order[:rest].count(turn)

    def part_of(self, component: str) -> str:
        """The part that a component belongs to."""
        return next(name for name, part in self.parts.items() if component in part.components)

    def active(self, step: jax.Array) -> dict[str, jax.Array]:
        """Whether a step updates each part, as bool scalars."""
        kind = self.kind_at(step)
        return {name: kind == self.kinds.index(part.turn) for name, part in self.parts.items()}


class Alternating(Objective, Protocol):
    """An objective whose parts take turns; the loss depends on the kind of turn."""

    turns: Turns

    def loss_of_turn(
        self, kind: str, trainable: Tree, frozen: Tree, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Like `Objective.loss`; the gradient reaches only the parts that this kind of turn updates."""


def turns_of(objective: Objective) -> Turns | None:
    """The turns of an objective; None if every step updates all weights."""
    return getattr(objective, "turns", None)
