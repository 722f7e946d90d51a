"""Low-rank updates: what is trained, merged, written to a file in PyTorch's layout, and read from one."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from distilled_toy import PRESET, experiment, run
from safetensors.numpy import load_file, save_file

from star_jax.checkpoints.directory import load_component, read_config
from star_jax.checkpoints.trees import flatten
from star_jax.convert.lora_file import read_lora
from star_jax.errors import InputError
from star_jax.init.random_checkpoint import random_checkpoint
from star_jax.launch.cli import main
from star_jax.models.architectures import build_model
from star_jax.models.lora import LORA, fresh_lora, lora_shapes, merge_lora
from star_jax.presets import get_preset
from star_jax.train.checkpoints import restore_weights
from star_jax.train.experiments import make_objective


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(checkpoint, work directory) of two steps of rung `guidance`, with rank 2 and alpha 4."""
    folder = tmp_path_factory.mktemp("lora")
    random_checkpoint(folder / "checkpoint", PRESET)
    run("lora", folder / "checkpoint", folder / "run", num_steps=2)
    return folder / "checkpoint", folder / "run"


def network(directory) -> dict[str, np.ndarray]:
    model = build_model(read_config(directory))
    return flatten(jax.device_get(load_component(directory, "network", model.abstract("network"))))


def updates(trained) -> dict[str, np.ndarray]:
    checkpoint, workdir = trained
    shapes = make_objective(experiment("lora", checkpoint)).abstract_params()[0]
    return flatten(jax.device_get(restore_weights(workdir, shapes, ema=True)[1])[LORA]["network"])


def test_only_updates_are_trained(trained):
    objective = make_objective(experiment("lora", trained[0]))
    trainable, frozen = objective.abstract_params()
    assert list(trainable) == [LORA] and list(frozen) == ["network", "codec", "words"]
    shapes = {path: leaf.shape for path, leaf in flatten(trainable[LORA]).items()}
    assert shapes == {
        "network/text/lora_a": (8, 2),
        "network/text/lora_b": (2, 8),
        "network/time/lora_a": (1, 2),
        "network/time/lora_b": (2, 8),
        "network/conv_in/lora_a": (54, 2),
        "network/conv_in/lora_b": (2, 8),
        "network/conv_out/lora_a": (72, 2),
        "network/conv_out/lora_b": (2, 3),
    }
    assert all((leaf != 0).any() for leaf in updates(trained).values())


def test_fresh_updates_change_nothing():
    shapes = lora_shapes({"net": {"kernel": jax.ShapeDtypeStruct((3, 3, 4, 8), jnp.float32)}}, 2)
    params = {"net": {"kernel": np.ones((3, 3, 4, 8), np.float32)}, "other": {"scale": np.ones(3)}}
    fresh = fresh_lora(shapes, 0)
    assert abs(fresh["net"]["lora_a"]).max() > 0
    merged = merge_lora(params, fresh, 1.0)
    jax.tree.map(np.testing.assert_array_equal, merged, params)


def test_networks_with_updates_of_their_own_are_refused():
    model = build_model(get_preset("tiny-cogvideox"))
    with pytest.raises(InputError, match="their own low-rank updates"):
        lora_shapes(model.abstract_params(model.network_components), 2)


def test_assembled_weights_have_the_updates(trained, tmp_path):
    checkpoint, workdir = trained
    assert main(["assemble", str(workdir), str(tmp_path / "out")]) == 0
    before, after, factors = network(checkpoint), network(tmp_path / "out"), updates(trained)
    for path, leaf in after.items():
        module = path.rpartition("/")[0].removeprefix("network/")
        expected = before[path].astype(np.float64)
        if path.endswith("kernel"):
            product = factors[f"network/{module}/lora_a".removeprefix("network/")].astype(np.float64)
            product = product @ factors[f"{module}/lora_b"]
            expected = expected + 2.0 * product.reshape(expected.shape)
            assert (leaf != before[path]).any()
        np.testing.assert_allclose(leaf, expected, rtol=1e-6, atol=1e-7, err_msg=path)
    assert read_config(tmp_path / "out").sampling.guidance_scale == 1.0


@pytest.fixture(scope="module")
def file(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "updates.safetensors"
    assert main(["assemble", str(trained[1]), str(path)]) == 0
    return path


def test_a_file_merges_to_the_same_weights(trained, file, tmp_path, capsys):
    checkpoint, workdir = trained
    assert main(["merge-lora", str(checkpoint), str(file), str(tmp_path / "merged")]) == 0
    assert "4 kernels updated" in capsys.readouterr().out
    assert main(["assemble", str(workdir), str(tmp_path / "out")]) == 0
    jax.tree.map(np.testing.assert_array_equal, network(tmp_path / "merged"), network(tmp_path / "out"))
    assert main(["merge-lora", str(checkpoint), str(file), str(tmp_path / "none"), "--strength", "0"]) == 0
    jax.tree.map(np.testing.assert_array_equal, network(tmp_path / "none"), network(checkpoint))


def test_the_file_is_what_pytorch_expects(trained, file, tmp_path):
    """A convolution followed by a 1x1 convolution, beside the layer; alpha is in the metadata."""
    tensors = load_file(file)
    down, up = (torch.tensor(tensors[f"network.conv_in.lora_{half}.weight"]) for half in ("A", "B"))
    assert (tuple(down.shape), tuple(up.shape)) == ((2, 6, 3, 3), (8, 2, 1, 1))
    assert tuple(tensors["network.text.lora_A.weight"].shape) == (2, 8)
    x = torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    main(["merge-lora", str(trained[0]), str(file), str(tmp_path / "merged")])
    delta = network(tmp_path / "merged")["conv_in/kernel"] - network(trained[0])["conv_in/kernel"]
    beside = 4.0 / 2 * torch.conv2d(torch.conv2d(x, down, padding=1), up)
    merged = torch.conv2d(x, torch.tensor(delta).permute(3, 2, 0, 1), padding=1)
    torch.testing.assert_close(merged, beside, rtol=1e-4, atol=1e-6)


def test_training_starts_from_a_file(trained, file):
    config = experiment("lora", trained[0], model={"lora": str(file)})
    objective = make_objective(config)
    placement = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    trees = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement), objective.abstract_params()
    )
    found = flatten(jax.device_get(objective.load(*trees)[0])[LORA]["network"])
    jax.tree.map(np.testing.assert_array_equal, found, updates(trained))

    other = make_objective(experiment("lora", trained[0], model={"lora": str(file), "lora_rank": 3}))
    with pytest.raises(InputError, match=r"expected \(.*3\); set model.lora_rank to the file's rank"):
        other.load(*other.abstract_params())
    scaled = make_objective(experiment("lora", trained[0], model={"lora": str(file), "lora_alpha": 1.0}))
    with pytest.raises(InputError, match=r"was trained with another alpha; set model.lora_alpha=4"):
        scaled.load(*scaled.abstract_params())


def test_files_that_do_not_fit_are_refused(trained, file, tmp_path):
    tensors = load_file(file)

    def refused(name, content, match, **metadata):
        path = tmp_path / f"{name}.safetensors"
        save_file(content, path, metadata)
        with pytest.raises(InputError, match=match):
            read_lora(path)

    refused("half", {k: v for k, v in tensors.items() if "text.lora_A" not in k}, "lacks the other half of")
    refused("alpha", tensors, "has alpha 'four', which is not a number", alpha="four")
    refused("weights", {**tensors, "network.bias": np.zeros(3, np.float32)}, "is not a low-rank update")
    with pytest.raises(InputError, match="is not a safetensors file of low-rank updates"):
        read_lora(tmp_path / "nothing.safetensors")
    save_file(
        {
            "other.net.lora_A.weight": np.zeros((2, 4), np.float32),
            "other.net.lora_B.weight": np.zeros((4, 2), np.float32),
        },
        tmp_path / "other.safetensors",
    )
    assert (
        main(["merge-lora", str(trained[0]), str(tmp_path / "other.safetensors"), str(tmp_path / "out")]) == 2
    )
    assert not (tmp_path / "out").exists()


def test_a_run_of_weights_has_no_updates_to_write(trained, tmp_path, capsys):
    shutil.copytree(trained[1], tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["model"]["lora_rank"] = 0
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "1")
    assert main(["assemble", str(tmp_path / "run"), str(tmp_path / "x.safetensors")]) != 0
    assert not (tmp_path / "x.safetensors").exists()
