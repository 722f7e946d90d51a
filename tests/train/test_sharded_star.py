"""star-jax train with the real networks: eight devices in two processes compute what one device does."""

import pytest
import small_experiment
from one_level import ONE_LEVEL
from simulated_devices import assert_close, finish, free_address, results, start

from star_jax.init.random_checkpoint import random_checkpoint
from star_jax.launch.cli import main
from star_jax.train.star.objective import StarObjective

SCRIPT = "train_one_level.py"


@pytest.fixture
def checkpoint(tmp_path):
    """Random in every weight: fresh ones would stop most gradients."""
    random_checkpoint(tmp_path / "checkpoint", ONE_LEVEL)
    return tmp_path / "checkpoint"


def test_eight_devices_in_two_processes_equal_one(tmp_path, checkpoint):
    """Loss and gradient of both terms, back through the decoder, and the loss of the updated weights."""
    config = ["--config", small_experiment.__file__, "--config.model.checkpoint", str(checkpoint), "--quiet"]
    address, two = free_address(), tmp_path / "two"
    mesh = [f"--config.mesh.{axis}=2" for axis in ("data", "fsdp", "context")]
    cluster = ["--workdir", two, *mesh, "--coordinator", address, "--num-processes", 2, "--process-id"]
    share = {"JAX_SHARE_BINARY_BETWEEN_HOSTS": "1"}  # compiling takes a minute of each process
    processes = [start(SCRIPT, [*config, *cluster, index], devices=4, **share) for index in range(2)]
    try:
        assert main(["train", *config, "--workdir", str(tmp_path / "one")]) == 0
    finally:
        outputs = finish(processes)
    assert "step 2 of 2: done" in outputs[0]

    experiment = small_experiment.get_config()
    objective = StarObjective(experiment.model, experiment.diffusion, experiment.data, experiment.train)
    found, expected = (results(tmp_path / name, objective, experiment) for name in ("two", "one"))
    metrics, _ = expected
    assert metrics[1, "loss_df"] > 0 and metrics[1, "loss"] != metrics[2, "loss"]
    assert_close(found, expected)
