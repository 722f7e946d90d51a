"""Operations of a training step, counted by tracing its gradient."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from star_jax.diffusion.noise import noise_key
from star_jax.ops.flops import count_flops
from star_jax.train.objective import Objective
from star_jax.train.turns import turns_of


def step_flops(objective: Objective, batch_size: int) -> float:
    """Operations of one update on all devices together, without the recomputation of remat.

    If parts of the weights take turns, this is the mean over a cycle.

    Args:
      objective: provides the shapes and the loss.
      batch_size: clips per update.
    """
    trainable, frozen = objective.abstract_params()
    key = jax.eval_shape(lambda: noise_key(0))
    arguments = (trainable, frozen, objective.abstract_batch(batch_size), key)

    def of(loss: Callable) -> float:
        return count_flops(jax.grad(loss, has_aux=True), *arguments).total

    turns = turns_of(objective)
    if turns is None:
        return of(objective.loss)
    alternating: Any = objective
    of_kind = {kind: of(partial(alternating.loss_of_turn, kind)) for kind in turns.kinds}
    return statistics.mean(of_kind[kind] for kind in turns.order)
