"""Every kind of ablation traces a whole training step on a small network; alpha and beta only change constants."""

import jax
import pytest
from two_levels import TWO_LEVELS

from star_jax.config import PRESETS
from star_jax.diffusion.noise import noise_key
from star_jax.launch.config_arguments import run_config_file
from star_jax.train.config import parse_experiment
from star_jax.train.optimizer import make_optimizer
from star_jax.train.star_objective import StarObjective
from star_jax.train.state import abstract_state
from star_jax.train.step import make_train_step

SMALL = {
    "model.preset": "two-levels",
    "model.checkpoint": "None",
    "data.num_frames": "3",
    "data.height": "12",
    "data.width": "8",
    "train.batch_size": "1",
}


@pytest.mark.parametrize("row", ["liem_none", "liem_block_output", "df_off"])
def test_an_ablation_takes_a_step(row, monkeypatch):
    monkeypatch.setitem(PRESETS, "two-levels", TWO_LEVELS)
    config = parse_experiment(run_config_file(f"ablations.py:{row}"), SMALL)
    objective = StarObjective(config.model, config.diffusion, config.data, config.train)
    optimizer = make_optimizer(config.optimizer, config.train.num_steps)
    trainable, frozen = objective.abstract_params()
    step = make_train_step(objective, optimizer, config.train)
    arguments = (abstract_state(trainable, optimizer), frozen, objective.abstract_batch(1), noise_key(0))
    state, metrics = jax.eval_shape(step, *arguments)
    assert jax.tree.structure(state.params) == jax.tree.structure(trainable)
    assert ("loss_df" in metrics) == (row != "df_off")
    has_liem = any(
        "liem" in jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state.params)
    )
    assert has_liem == (row != "liem_none")
