"""Every row of the paper's ablations takes a step on a small network.

Rows that differ in alpha and beta only are one program, with the two as arguments; most rows are the full model's.
That one runs in every test run. The other nine, each half a minute of compilation, are traced, and run with
STAR_JAX_EVERY_ABLATION=1.
"""

import copy
import os
from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
from one_level import ONE_LEVEL
from random_trees import random_tree

from star_jax.checkpoints.trees import flatten
from star_jax.configs.ablations import ROWS
from star_jax.diffusion.noise import noise_key
from star_jax.launch.experiment import run_config_file, with_changes
from star_jax.train.config import ExperimentConfig
from star_jax.train.optimizer import make_optimizer
from star_jax.train.star.objective import StarObjective
from star_jax.train.state import abstract_state
from star_jax.train.step import make_train_step

SMALL = [
    f"--config.model.preset={ONE_LEVEL.preset}",
    "--config.model.checkpoint=None",
    "--config.data.num_frames=3",
    "--config.data.height=12",
    "--config.data.width=8",
    "--config.train.batch_size=1",
    "--config.train.remat=none",
]
RUN_EVERY = "STAR_JAX_EVERY_ABLATION" in os.environ
NUMBERS = ("alpha", "beta")


def experiment(row: str) -> ExperimentConfig:
    return with_changes(run_config_file(f"ablations.py:{row}"), SMALL)


def without_numbers(config: ExperimentConfig) -> ExperimentConfig:
    """What rows of one program have in common."""
    return replace(config, diffusion=replace(config.diffusion, **dict.fromkeys(NUMBERS, 1.0)))


FULL = without_numbers(experiment("liem_both"))


@cache
def program(config: ExperimentConfig):
    """(step, shapes of its arguments), of which the last are alpha and beta."""
    objective = StarObjective(config.model, config.diffusion, config.data, config.train)
    optimizer = make_optimizer(config.optimizer, config.train.num_steps)

    def step(state, frozen, batch, numbers):
        objective.loss_config = copy.copy(config.diffusion)
        for name, value in numbers.items():
            object.__setattr__(objective.loss_config, name, value)  # __post_init__ compares, tracers cannot
        return make_train_step(objective, optimizer, config.train)(state, frozen, batch, noise_key(3))

    trainable, frozen = objective.abstract_params()
    return jax.jit(step), (abstract_state(trainable, optimizer), frozen, objective.abstract_batch(1))


@cache
def take_step(row: str):
    """(state, metrics); their shapes, where the program is not compiled."""
    config = experiment(row)
    step, (state, frozen, batch) = program(without_numbers(config))
    numbers = {name: getattr(config.diffusion, name) for name in NUMBERS}
    if not RUN_EVERY and without_numbers(config) != FULL:
        return jax.eval_shape(step, state, frozen, batch, numbers)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)
    state = state.replace(params=random_tree(state.params))
    rng = np.random.default_rng(0)
    batch = {
        name: rng.integers(0, 256 if leaf.dtype == np.uint8 else 9, leaf.shape, leaf.dtype)
        for name, leaf in batch.items()
    }
    return jax.device_get(step(state, random_tree(frozen, seed=1), batch, numbers))


@pytest.mark.parametrize("row", ROWS)
def test_an_ablation_takes_a_step(row):
    config = experiment(row)
    state, metrics = take_step(row)
    assert ("loss_df" in metrics) == (row != "df_off")
    moments = {path: leaf for path, leaf in flatten(state.opt_state[1][0].mu).items() if "liem" in path}
    # The spatial transformers are in `attentions`, the temporal ones in `temp_attentions` and `transformer_in`.
    assert any("/attentions/" in path for path in moments) == config.model.liem_spatial
    assert any("/attentions/" not in path for path in moments) == config.model.liem_temporal
    if isinstance(metrics["loss"], np.ndarray):
        assert all(np.isfinite(value) for value in metrics.values())
        assert state.step == 1 and metrics["grad_norm"] > 0
        assert all(leaf.any() for leaf in moments.values())


def test_alpha_and_beta_reach_the_loss():
    losses = {row: float(take_step(row)[1]["loss_df"]) for row in ROWS if row.startswith(("alpha_", "beta_"))}
    for row, loss in losses.items():
        if row.startswith("beta_"):
            assert loss == pytest.approx(float(row.removeprefix("beta_")) * losses["beta_1"], rel=1e-5)
    alphas = [loss for row, loss in losses.items() if row.startswith("alpha_")]
    assert len(set(alphas)) == len(alphas) == 5
