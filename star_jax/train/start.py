"""Preparation of a run before its first step: loads weights and state onto the devices, and compiles the step."""

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from star_jax.data.config import DataConfig
from star_jax.ops.flops import compiled_flops
from star_jax.parallel.mesh import MeshConfig, batch_shardings
from star_jax.parallel.weights import param_shardings
from star_jax.train.config import OptimizerConfig, TrainConfig
from star_jax.train.objective import Objective
from star_jax.train.optimizer import Optimizer
from star_jax.train.overview import overview
from star_jax.train.programs import compile_or_find
from star_jax.train.state import TrainState, Tree, abstract_state, new_state
from star_jax.train.step import jit_train_step, make_train_step, with_shardings

logger = logging.getLogger(__name__)

Restore = Callable[[TrainState], tuple[TrainState, dict[str, Any]] | None]


class RunConfig(Protocol):
    """The groups of a configuration that the loop needs; `ExperimentConfig` is an example."""

    @property
    def train(self) -> TrainConfig: ...

    @property
    def data(self) -> DataConfig: ...

    @property
    def optimizer(self) -> OptimizerConfig: ...

    @property
    def mesh(self) -> MeshConfig: ...


def load_state(
    objective: Objective, optimizer: Optimizer, config: TrainConfig, mesh: Mesh, restore: Restore
) -> tuple[TrainState, Tree, dict[str, Any]]:
    """Reads the weights, then restores the state, or makes a new one if `restore` returns None.

    Returns:
      (state, frozen weights, metadata that was saved with the state).
    """
    trainable, frozen = (
        with_shardings(tree, param_shardings(mesh, tree)) for tree in objective.abstract_params()
    )
    logger.info("weights of this run\n%s", overview(trainable, frozen))
    abstract = abstract_state(trainable, optimizer, ema_decay=config.ema_decay)
    shardings = param_shardings(mesh, abstract)
    params, frozen = objective.load(trainable, frozen)
    restored = restore(with_shardings(abstract, shardings))
    if restored is not None:
        logger.info("resumed at step %d", int(restored[0].step))
        return restored[0], frozen, restored[1]
    make_state = jax.jit(
        lambda params: new_state(params, optimizer, ema_decay=config.ema_decay),
        out_shardings=shardings,
        donate_argnums=0,
    )
    return compile_or_find(make_state.lower(params), mesh)(params), frozen, {}


def compile_step(
    objective: Objective,
    optimizer: Optimizer,
    config: TrainConfig,
    mesh: Mesh,
    arguments: tuple[TrainState, Tree, jax.Array],
) -> jax.stages.Compiled:
    """Compiles the step of `star_jax.train.step` for the given state, frozen weights and key."""
    state, frozen, key = arguments
    started = time.perf_counter()
    step = jit_train_step(make_train_step(objective, optimizer, config), mesh, jax.eval_shape(lambda: state))
    batch = objective.abstract_batch(config.batch_size)
    batch = with_shardings(batch, batch_shardings(mesh, batch))
    program = compile_or_find(step.lower(state, frozen, batch, key), mesh)
    logger.info("compiled the step in %.1f s", time.perf_counter() - started)
    return program


def program_flops(program: jax.stages.Compiled, mesh: Mesh) -> float | None:
    """The compiler's count for all devices together, with recomputation and with each loop's body once."""
    of_device = compiled_flops(program)
    return None if of_device is None else of_device * mesh.size
