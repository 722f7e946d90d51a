"""CogVideoX trains by the same loop: an interrupted run ends as one that was not."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from saved_state import saved_state

import star_jax
from star_jax.configs.star_cogvideox import get_config
from star_jax.train.config import ExperimentConfig
from star_jax.train.speed import MEASURED
from star_jax.train.star.objective import StarObjective

STEPS = 4


def short_config() -> ExperimentConfig:
    """configs/star_cogvideox.py:tiny, the released loss included, on two clips of 9 frames of 32x32."""
    config = get_config("tiny")
    return dataclasses.replace(
        config,
        train=dataclasses.replace(
            config.train, num_steps=STEPS, checkpoint_every_steps=STEPS // 2, log_every_steps=1, curves=False
        ),
        data=dataclasses.replace(config.data, source="synthetic:2", height=32, width=32),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("whole") / "run"
    star_jax.train(short_config(), workdir, quiet=True)
    return workdir


def metrics(workdir: Path) -> list[dict]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in MEASURED} for line in lines]


def test_a_resumed_run_is_the_same(whole, tmp_path):
    """The checkpoint at the half, and nothing that came after it."""
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    shutil.rmtree(workdir / "checkpoints" / str(STEPS))
    star_jax.train(short_config(), workdir, quiet=True)
    config = short_config()
    objective = StarObjective(config.model, config.diffusion, config.data, config.train)
    states = [
        jax.device_get(saved_state(path, STEPS, objective, config.optimizer, config.train))
        for path in (whole, workdir)
    ]
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert metrics(workdir) == metrics(whole)
