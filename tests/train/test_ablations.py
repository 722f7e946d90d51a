"""Every row of the paper's ablations takes a step on a small network.

Rows that differ in alpha and beta only are one program but for these two numbers; most rows are the full model's.
That one runs in every test run, at the paper's numbers; the others reach the loss in a test of their own. The other
nine programs, each half a minute of compilation, are traced, and run with STAR_JAX_EVERY_ABLATION=1.
"""

import dataclasses
import os
from functools import cache

import jax
import numpy as np
import pytest
from random_trees import random_tree
from small_experiment import small
from small_objective import two_clips, with_stub_network

from star_jax.checkpoints.trees import flatten
from star_jax.configs.ablations import ROWS
from star_jax.diffusion.noise import noise_key
from star_jax.parallel.mesh import make_mesh
from star_jax.train.config import ExperimentConfig
from star_jax.train.optimizer import make_optimizer
from star_jax.train.star.objective import StarObjective
from star_jax.train.start import compile_step
from star_jax.train.state import abstract_state
from star_jax.train.step import abstract_arguments, make_train_step

RUN_EVERY = "STAR_JAX_EVERY_ABLATION" in os.environ
NUMBERS = ("alpha", "beta")
FULL = small("liem_both")


def without_numbers(config: ExperimentConfig) -> ExperimentConfig:
    """What rows of one program have in common."""
    loss = dataclasses.replace(config.diffusion, **dict.fromkeys(NUMBERS, 1.0))
    return dataclasses.replace(config, diffusion=loss)


def objective_of(config: ExperimentConfig) -> StarObjective:
    return StarObjective(config.model, config.diffusion, config.data, config.train)


def parts(config: ExperimentConfig):
    """(objective, optimizer, mesh, shapes of the step's arguments)."""
    objective, mesh = objective_of(config), make_mesh(config.mesh)
    optimizer = make_optimizer(config.optimizer, config.train.num_steps)
    state = abstract_state(objective.abstract_params()[0], optimizer)
    return objective, optimizer, mesh, abstract_arguments(objective, state, config.train.batch_size, mesh)


@cache
def traced(config: ExperimentConfig):
    """Shapes of (state, metrics)."""
    objective, optimizer, mesh, shapes = parts(config)
    with jax.set_mesh(mesh):
        return jax.eval_shape(make_train_step(objective, optimizer, config.train), *shapes)


@cache
def take_step(config: ExperimentConfig):
    """(state, metrics)."""
    objective, optimizer, mesh, (state, frozen, batch, key) = parts(config)
    rng = np.random.default_rng(0)
    state_values = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)
    values = (
        dataclasses.replace(state_values, params=random_tree(state.params)),
        random_tree(frozen, seed=1),
        {
            name: rng.integers(0, 256 if leaf.dtype == np.uint8 else 9, leaf.shape, leaf.dtype)
            for name, leaf in batch.items()
        },
        noise_key(config.train.seed),
    )
    with jax.set_mesh(mesh):
        state, frozen, batch, key = jax.tree.map(
            lambda value, leaf: jax.device_put(value, leaf.sharding), values, (state, frozen, batch, key)
        )
        step = compile_step(objective, optimizer, config.train, mesh, (state, frozen, key))
        return jax.device_get(step(state, frozen, batch, key))


@pytest.mark.parametrize("row", ROWS)
def test_an_ablation_takes_a_step(row):
    config = small(row)
    program = without_numbers(config)
    runs = config == FULL or (RUN_EVERY and program != without_numbers(FULL))
    state, metrics = take_step(config) if runs else traced(program)
    assert ("loss_df" in metrics) == (row != "df_off")
    moments = {path: leaf for path, leaf in flatten(state.opt_state[1][0].mu).items() if "liem" in path}
    # The spatial transformers are in `attentions`, the temporal ones in `temp_attentions` and `transformer_in`.
    assert any("/attentions/" in path for path in moments) == config.model.liem_spatial
    assert any("/attentions/" not in path for path in moments) == config.model.liem_temporal
    if isinstance(metrics["loss"], np.ndarray):
        assert all(np.isfinite(value) for value in metrics.values())
        assert state.step == 1 and metrics["grad_norm"] > 0
        assert all(leaf.any() for leaf in moments.values())


@cache
def stub_loss():
    """Program (batch, alpha, beta) -> frequency loss of the full model, whose network is a stub."""
    objective = with_stub_network(objective_of(FULL))
    trainable, frozen = (random_tree(tree) for tree in objective.abstract_params())

    @jax.jit
    def loss(batch, numbers):
        objective.loss_config = dataclasses.replace(FULL.diffusion)
        for name, value in numbers.items():
            object.__setattr__(objective.loss_config, name, value)  # __post_init__ compares, tracers cannot
        return objective.loss(trainable, frozen, batch, noise_key(3))[1]["loss_df"]

    return loss


def test_alpha_and_beta_reach_the_loss():
    losses = {}
    for row in ROWS:
        if row.startswith(("alpha_", "beta_")):
            numbers = {name: getattr(small(row).diffusion, name) for name in NUMBERS}
            losses[row] = float(stub_loss()(two_clips(), numbers))
    for row, loss in losses.items():
        if row.startswith("beta_"):
            assert loss == pytest.approx(float(row.removeprefix("beta_")) * losses["beta_1"], rel=1e-5)
    alphas = [loss for row, loss in losses.items() if row.startswith("alpha_")]
    assert len(set(alphas)) == len(alphas) == 5
