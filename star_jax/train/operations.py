"""Operations of a training step, counted by tracing its gradient."""

import jax

from star_jax.diffusion.noise import noise_key
from star_jax.ops.flops import count_flops
from star_jax.train.objective import Objective


def step_flops(objective: Objective, batch_size: int) -> float:
    """Operations of one update on all devices together, without what remat computes twice.

    Args:
      objective: asked for shapes and for the loss.
      batch_size: clips per update.
    """
    trainable, frozen = objective.abstract_params()
    key = jax.eval_shape(lambda: noise_key(0))
    gradient = jax.grad(objective.loss, has_aux=True)
    return count_flops(gradient, trainable, frozen, objective.abstract_batch(batch_size), key).total
