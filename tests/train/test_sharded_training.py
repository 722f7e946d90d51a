"""Simulated devices, in one process and in two, give one device's loss and gradients; weights are really split."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec
from one_level import ONE_LEVEL
from simulated_devices import assert_close, finish, free_address, results, start
from toy_training import ToyObjective, toy_config

from star_jax.checkpoints.directory import load_component
from star_jax.errors import InputError
from star_jax.init.component import fresh_component
from star_jax.models.architectures import build_model
from star_jax.parallel.mesh import (
    MeshConfig,
    batch_shardings,
    make_mesh,
    parse_mesh,
    place_batch,
    process_share,
)
from star_jax.parallel.weights import param_spec
from star_jax.train.loop import train
from star_jax.train.optimizer import make_optimizer
from star_jax.train.state import abstract_state

SCRIPT = "train_sharded.py"
ONE_STEP = toy_config(num_steps=1, validate_every_steps=1)


def results_of(workdir: Path):
    return results(workdir, ToyObjective(), ONE_STEP)


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one")
    train(ToyObjective(), ONE_STEP, workdir, quiet=True)
    return results_of(workdir)


def test_eight_devices_equal_one(one_device, tmp_path):
    meshes = [[8, 1, 1], [1, 8, 1], [1, 2, 2, 2]]  # the last one as two slices
    finish([start(SCRIPT, [tmp_path, json.dumps(meshes)], 8)])
    for sizes in meshes:
        assert_close(results_of(tmp_path / "x".join(map(str, sizes))), one_device)


def test_two_processes_equal_one(one_device, tmp_path):
    address, meshes = free_address(), [[1, 4, 2]]
    processes = [start(SCRIPT, [tmp_path, json.dumps(meshes), address, index], 4) for index in range(2)]
    outputs = finish(processes)
    for sizes in meshes:
        assert_close(results_of(tmp_path / "x".join(map(str, sizes))), one_device)
    assert "step 1" in outputs[0] and "step 1" not in outputs[1]  # one process reports
    model = build_model(ONE_LEVEL)  # of several processes, one writes fresh weights
    for name in model.components:
        made = load_component(tmp_path / "fresh", name, model.abstract(name))
        jax.tree.map(np.testing.assert_array_equal, made, fresh_component(model, name, seed=0))


@pytest.mark.parametrize(
    ("sizes", "shape", "spec"),
    [
        ((2, 4, 1), (3, 3, 320, 640), (None, None, None, ("fsdp", "context"))),
        ((2, 4, 1), (1280, 1280), (None, ("fsdp", "context"))),
        ((1, 4, 2), (640, 6), (("fsdp", "context"), None)),
        ((1, 4, 8), (4, 8191), (("fsdp",), None)),  # no axis divides by 32
        ((1, 4, 2), (320,), ()),  # small
        ((8, 1, 1), (1280, 1280), ()),
        ((1, 7, 1), (1280, 1280), ()),
    ],
)
def test_weights_are_split_over_fsdp_and_context(sizes, shape, spec):
    mesh = AbstractMesh(sizes, ("data", "fsdp", "context"))
    if shape == (640, 6):
        shape = (64000, 6)
    assert param_spec(mesh, shape) == PartitionSpec(*spec)


def test_moments_lie_as_their_weights():
    mesh = AbstractMesh((1, 4, 2), ("data", "fsdp", "context"))
    state = abstract_state(
        ToyObjective().abstract_params()[0], make_optimizer(toy_config().optimizer, 1), ema_decay=0.9
    )
    specs = jax.tree.map(lambda leaf: param_spec(mesh, leaf.shape), state)
    assert specs.params == specs.opt_state[1][0].mu == specs.opt_state[1][0].nu == specs.ema_params
    assert specs.params["controlnet"]["kernel"] == PartitionSpec(None, ("fsdp", "context"))


def test_meshes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"mesh is data=3 x fsdp=1 x context=1, but there are 8 devices"):
        make_mesh(MeshConfig(data=3), jax.devices()[:1] * 8)
    with pytest.raises(InputError, match=r"mesh is data=-1 x fsdp=3 x context=1, but there are 8 devices"):
        make_mesh(MeshConfig(fsdp=3), jax.devices()[:1] * 8)


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU of one of several slices of 2 x 2."""

    id: int
    slice_index: int
    platform = "tpu"
    device_kind = "a TPU"
    core_on_chip = 0

    @property
    def coords(self):
        return self.id % 2, self.id % 4 // 2, 0


CHIPS = [Chip(index, index // 4) for index in range(8)]


def test_only_data_crosses_slices():
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, context=-1), CHIPS)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "context": 2}
    slices = [{chip.slice_index for chip in replica.flat} for replica in mesh.devices]
    assert slices == [{0}, {1}]
    assert len(set(mesh.devices.flat)) == 8
    assert make_mesh(MeshConfig(dcn_data=2), CHIPS).shape["data"] == 8
    assert parse_mesh("fsdp=2,dcn_data=2") == MeshConfig(1, 2, 1, 2)


def test_slices_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"mesh.dcn_data is 4, but the devices form 2 slices"):
        make_mesh(MeshConfig(dcn_data=4), CHIPS)
    with pytest.raises(
        InputError, match=r"mesh is data=3 x fsdp=1 x context=1, but each of 2 slices has 4 devi"
    ):
        make_mesh(MeshConfig(data=3), CHIPS)
    with pytest.raises(InputError, match=r"mesh.dcn_data is 3, but there are 8 devices; choose a divisor"):
        make_mesh(MeshConfig(dcn_data=3), jax.devices()[:1] * 8)


def test_batches_are_split():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    batch = {"gt": np.arange(2 * 4 * 3 * 3 * 1.0).reshape(2, 4, 3, 3, 1), "index": np.arange(2)}
    shardings = batch_shardings(mesh, batch)
    share = process_share(mesh, 2)
    assert (share.index, share.count, share.start, share.size) == (0, 1, 0, 2)
    placed = place_batch(batch, shardings, share)
    jax.tree.map(np.testing.assert_array_equal, placed, batch)
    assert shardings["gt"].spec == PartitionSpec(("data", "fsdp"), "context")
    assert shardings["index"].spec == PartitionSpec(("data", "fsdp"))
