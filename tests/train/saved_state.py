"""The whole state of a training checkpoint, optimizer included, for tests to compare."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from star_jax.parallel.mesh import MeshConfig, make_mesh
from star_jax.parallel.weights import param_shardings
from star_jax.train.config import OptimizerConfig, TrainConfig
from star_jax.train.objective import Objective
from star_jax.train.optimizer import make_optimizer
from star_jax.train.state import TrainState, abstract_state
from star_jax.train.step import with_shardings
from star_jax.train.turns import turns_of


def saved_state(
    workdir: Path, step: int, objective: Objective, optimizer: OptimizerConfig, train: TrainConfig
) -> TrainState:
    """Restores the state of one step to the first device."""
    abstract = abstract_state(
        objective.abstract_params()[0],
        make_optimizer(optimizer, train.num_steps, turns_of(objective)),
        ema_decay=train.ema_decay,
    )
    shardings = param_shardings(make_mesh(MeshConfig(), jax.devices()[:1]), abstract)
    folder = workdir.absolute() / "checkpoints" / str(step) / "state"
    return ocp.StandardCheckpointer().restore(folder, with_shardings(abstract, shardings))
