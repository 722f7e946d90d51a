"""The state that training updates, and the split into trained and frozen weights."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from star_jax.checkpoints.trees import flatten, unflatten
from star_jax.train.optimizer import Optimizer
from star_jax.train.turns import Turns

Tree = dict[Any, Any]


@flax.struct.dataclass
class TrainState:
    """The state of a run between two steps.

    Attributes:
      step: number of updates so far, int32.
      params: trained weights by component, float32.
      ema_params: moving average of the trained weights; None if the run keeps none.
      opt_state: state of the optax optimizer.
    """

    step: jax.Array
    params: Tree
    ema_params: Tree | None
    opt_state: optax.OptState


def split_trainable(params: Mapping[Any, Any], predicate: Callable[[str], bool]) -> tuple[Tree, Tree]:
    """Splits trees by component into (trainable, frozen); leaves whose path satisfies `predicate` are trainable."""
    leaves = flatten(params)
    trainable = {path: leaf for path, leaf in leaves.items() if predicate(path)}
    return unflatten(trainable), unflatten({path: leaves[path] for path in leaves if path not in trainable})


def merge_params(trainable: Mapping[Any, Any], frozen: Mapping[Any, Any]) -> Tree:
    """Inverse of `split_trainable`."""
    return unflatten({**flatten(frozen), **flatten(trainable)})


def new_state(params: Tree, optimizer: Optimizer, *, ema_decay: float = 0.0) -> TrainState:
    """The state before the first step; for use within `jax.jit` or `jax.eval_shape`."""
    # This is a copy, because two leaves that share a buffer cannot both be donated.
    ema_params = jax.tree.map(jnp.copy, params) if ema_decay else None
    return TrainState(jnp.zeros((), jnp.int32), params, ema_params, optimizer.transform.init(params))


def abstract_state(abstract_trainable: Tree, optimizer: Optimizer, *, ema_decay: float = 0.0) -> TrainState:
    """Shapes of the state, without memory or shardings."""
    return jax.eval_shape(
        lambda params: new_state(params, optimizer, ema_decay=ema_decay), abstract_trainable
    )


def keep_idle(turns: Turns, old: TrainState, new: TrainState) -> TrainState:
    """The new state, but with the old weights, average and optimizer state of all parts whose turn it was not."""
    active = turns.active(old.step)

    def chosen(part: str, before: Any, after: Any) -> Any:
        return jax.tree.map(lambda old, new: jnp.where(active[part], new, old), before, after)

    def weights(before: Tree, after: Tree) -> Tree:
        return {name: chosen(turns.part_of(name), before[name], after[name]) for name in after}

    before: Any = old.opt_state
    after: Any = new.opt_state  # of `optax.partition`
    inner = {
        part: chosen(part, before.inner_states[part], state) for part, state in after.inner_states.items()
    }
    return TrainState(
        new.step,
        weights(old.params, new.params),
        None if new.ema_params is None else weights(old.ema_params or {}, new.ema_params),
        after._replace(inner_states=inner),
    )
