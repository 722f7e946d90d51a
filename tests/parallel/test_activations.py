"""The networks on 8 simulated devices compute what they compute on one."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh
from quick_programs import with_devices

from star_jax.parallel import activations as activation_sharding

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def errors() -> dict[str, float]:
    environment = {**with_devices(8), "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(
        [sys.executable, HERE / "sharded_networks.py"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_networks_split_over_devices_agree_with_one_device(errors):
    assert len(errors) == 17
    assert max(errors.values()) < 1e-5, errors


def test_without_a_mesh_nothing_is_added_to_a_program():
    x = jnp.zeros((2, 3, 4, 4, 8))
    for split in (
        activation_sharding.split_frames,
        activation_sharding.split_pixels,
        activation_sharding.split_columns,
    ):
        assert split(x) is x
    assert not activation_sharding.on_several_devices()


def test_a_mesh_of_one_device_changes_no_program():
    mesh = AbstractMesh((1, 1, 1), ("data", "fsdp", "context"))
    with jax.sharding.use_abstract_mesh(mesh):
        assert not activation_sharding.on_several_devices()
    with jax.sharding.use_abstract_mesh(AbstractMesh((1, 1, 2), ("data", "fsdp", "context"))):
        assert activation_sharding.on_several_devices()
    with jax.sharding.use_abstract_mesh(AbstractMesh((4,), ("other",))):
        assert not activation_sharding.on_several_devices()
