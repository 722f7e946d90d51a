"""Checkpoint directories: strict loading, damage, atomic appearance, and restoring onto meshes."""

import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert_samples import SMALL
from networks import abstract_component
from quick_programs import with_devices

from star_jax.checkpoints.directory import (
    component_metadata,
    create_checkpoint,
    iterate_leaves,
    load_component,
    load_provenance,
    read_config,
    save_component,
)
from star_jax.checkpoints.trees import LazyArray, flatten, unflatten
from star_jax.errors import InputError, RunError
from star_jax.init.random_checkpoint import random_checkpoint


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("random") / "made"
    random_checkpoint(directory, SMALL, seed=3)
    return directory


def text_tree(dtype=jnp.float32):
    tree = abstract_component(SMALL, "text_encoder")[1]
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), tree)


def test_loads_in_the_dtype_asked_for(made):
    stored = dict(iterate_leaves(made, "text_encoder", list(component_metadata(made, "text_encoder"))))
    loaded = flatten(load_component(made, "text_encoder", text_tree(jnp.bfloat16)))
    assert loaded.keys() == stored.keys()
    for path, leaf in loaded.items():
        assert isinstance(leaf, jax.Array) and leaf.dtype == jnp.bfloat16
        np.testing.assert_array_equal(np.asarray(leaf), stored[path].astype(jnp.bfloat16))


def test_random_weights_depend_on_seed_and_name_only(tmp_path, made):
    random_checkpoint(tmp_path / "same", SMALL, seed=3)
    random_checkpoint(tmp_path / "other", SMALL, seed=4)
    paths = ["encoder/layers/0/mlp/fc1/kernel", "encoder/layers/1/mlp/fc1/kernel"]
    first, second = (leaf for _, leaf in iterate_leaves(made, "text_encoder", paths))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, next(iterate_leaves(tmp_path / "same", "text_encoder", paths))[1])
    assert not np.array_equal(first, next(iterate_leaves(tmp_path / "other", "text_encoder", paths))[1])
    assert np.abs(first).max() <= 1 / np.sqrt(32) and abs(first.mean()) < 0.02


def test_strict_loading(made):
    tree = flatten(text_tree())
    first = next(iter(tree))
    with pytest.raises(
        InputError, match=r"text_encoder of .*made has no leaf extra/kernel .*; use the preset"
    ):
        load_component(made, "text_encoder", unflatten(tree | {"extra/kernel": tree[first]}))
    with pytest.raises(InputError, match=f"has an unexpected leaf {first}"):
        load_component(made, "text_encoder", unflatten({k: v for k, v in tree.items() if k != first}))
    wrong = jax.ShapeDtypeStruct((1, 2), jnp.float32)
    with pytest.raises(InputError, match=rf"{first} is \(77, 32\), but the network has \(1, 2\)"):
        load_component(made, "text_encoder", unflatten(tree | {first: wrong}))
    with pytest.raises(InputError, match="holds preset 'small'; choose a checkpoint of preset 'tiny'"):
        read_config(made, expect_preset="tiny")


def test_places_that_are_no_checkpoint(tmp_path):
    for function in (read_config, load_provenance, lambda d: load_component(d, "vae", {})):
        with pytest.raises(InputError, match=r"does not exist; make one with star-jax convert"):
            function(tmp_path / "none")
        with pytest.raises(InputError, match="is not a checkpoint directory"):
            function(tmp_path)


def test_damaged_directories(tmp_path, made, capfd):
    """Every file of a component cut or gone, and every description garbled: refused, or not needed."""
    expected = flatten(load_component(made, "text_encoder", text_tree()))
    refused = 0
    files = [path.relative_to(made) for path in sorted((made / "text_encoder").rglob("*")) if path.is_file()]
    for file in files:
        for damage in ("cut", "gone"):
            copy = tmp_path / "copy"
            shutil.copytree(made, copy)
            data = (copy / file).read_bytes()
            (copy / file).unlink()
            if damage == "cut":
                (copy / file).write_bytes(data[: len(data) // 2])
            try:
                loaded = flatten(load_component(copy, "text_encoder", text_tree()))
                assert all(np.array_equal(loaded[path], leaf) for path, leaf in expected.items())
            except InputError as error:
                assert "convert the checkpoint again" in str(error) and "\n" not in str(error)
                refused += 1
            shutil.rmtree(copy)
    assert refused >= 6
    assert "Traceback" not in capfd.readouterr().err
    shutil.copytree(made, tmp_path / "copy")
    for text in ("", "[]", '{"preset": "x", "unet": 3}', '{"preset": "x", "colour": 3}', "\xff"):
        (tmp_path / "copy" / "config.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(InputError, match=r"config\.json"):
            read_config(tmp_path / "copy")


def test_appears_only_when_complete(tmp_path):
    target = tmp_path / "made"
    with pytest.raises(ZeroDivisionError), create_checkpoint(target, SMALL, {}) as partial:
        save_component(partial, "vae", {"a": np.ones(3)})
        assert not target.exists()
        1 / 0  # noqa: B018
    assert not os.listdir(tmp_path)
    with create_checkpoint(target, SMALL, {"note": 1}) as partial:
        save_component(partial, "vae", {"a": {0: np.ones(3, np.float32), 1: jnp.arange(4)}})
    assert load_provenance(target) == {"note": 1} and read_config(target) == SMALL
    assert set(component_metadata(target, "vae")) == {"a/0", "a/1"}
    with (
        pytest.raises(RunError, match="cannot write vae"),
        create_checkpoint(tmp_path / "b", SMALL, {}) as partial,
    ):
        (partial / "vae").write_text("in the way")
        save_component(partial, "vae", {"a": np.ones(3)})
    assert os.listdir(tmp_path) == ["made"]


ON_EIGHT_DEVICES = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from star_jax.checkpoints.directory import component_metadata, create_checkpoint, iterate_leaves, load_component
from star_jax.checkpoints.directory import read_config, save_component
from star_jax.checkpoints.trees import flatten, unflatten

directory, other = sys.argv[1:]
assert jax.device_count() == 8

def mesh(data, fsdp):
    return jax.make_mesh((data, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)

def sharded(mesh, shape, dtype):
    sizes = [(size, axis) for axis, size in enumerate(shape) if size % mesh.shape["fsdp"] == 0]
    spec = [None] * len(shape)
    if sizes and max(sizes)[0] >= 16:
        spec[max(sizes)[1]] = "fsdp"
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P(*spec)))

def abstract(directory, name, mesh):
    leaves = component_metadata(directory, name)
    return unflatten({path: sharded(mesh, leaf.shape, leaf.dtype) for path, leaf in leaves.items()})

def values(directory, name):
    return dict(iterate_leaves(directory, name, list(component_metadata(directory, name))))

def check(loaded, tree, expected):
    split = 0
    for path, leaf in flatten(loaded).items():
        wanted = flatten(tree)[path].sharding
        assert leaf.sharding == wanted, path
        np.testing.assert_array_equal(np.asarray(leaf), expected[path])
        shards = {shard.data.shape for shard in leaf.addressable_shards}
        assert shards == {wanted.shard_shape(leaf.shape)}
        split += shards != {leaf.shape}
    return split

name = "controlnet"
expected = values(directory, name)
tree = abstract(directory, name, mesh(2, 4))
loaded = load_component(directory, name, tree)
split = check(loaded, tree, expected)
assert split > 100, split
print("leaves split over devices:", split, "of", len(expected))

# Saved from the 2 x 4 mesh, restored onto others.
with create_checkpoint(other, read_config(directory), {}) as partial:
    save_component(partial, name, loaded)
for shape in ((1, 8), (4, 2)):
    tree = abstract(other, name, mesh(*shape))
    check(load_component(other, name, tree), tree, expected)
"""


def test_restores_onto_eight_devices_and_other_meshes(tmp_path, made):
    environment = with_devices(8)
    done = subprocess.run(
        [sys.executable, "-c", ON_EIGHT_DEVICES, str(made), str(tmp_path / "other")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "leaves split over devices" in done.stdout


READ_SHARDS = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from star_jax.checkpoints.directory import load_component

def bytes_read():
    with open("/proc/self/io") as file:
        return int(dict(line.split(": ") for line in file.read().splitlines())["rchar"])

mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
tree = {"a": jax.ShapeDtypeStruct((4096, 2048), np.float32, sharding=NamedSharding(mesh, P("fsdp")))}
before = bytes_read()
leaf = load_component(sys.argv[1], "vae", tree)["a"]
print(bytes_read() - before, float(leaf[4000, 7]))
"""


def test_a_device_reads_its_own_part(tmp_path):
    """All eight shards of a 32 MiB leaf together cost one reading of the file, not eight."""
    array = np.arange(4096 * 2048, dtype=np.float32).reshape(4096, 2048)
    with create_checkpoint(tmp_path / "made", SMALL, {}) as partial:
        save_component(partial, "vae", {"a": LazyArray(array.shape, array.dtype, lambda: array)})
    environment = with_devices(8)
    done = subprocess.run(
        [sys.executable, "-c", READ_SHARDS, str(tmp_path / "made")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    read, value = done.stdout.split()
    assert float(value) == array[4000, 7]
    assert array.nbytes <= int(read) < 1.5 * array.nbytes
