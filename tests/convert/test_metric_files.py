"""Weights of metrics: read safely, recognised, the authors' or vouched for, converted once, found."""

import os
import pickle

import numpy as np
import pytest
import torch

from star_jax.convert.metric_files import convert_metric_file, convert_metric_files, load_network
from star_jax.convert.metric_networks import LPIPS_WIDTHS, METRIC_NETWORKS
from star_jax.convert.sources import sha256
from star_jax.errors import InputError
from star_jax.evaluation.weights import ORIGINS, MetricWeights
from star_jax.launch.cli import main


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder of converted weights."""
    monkeypatch.setenv("STAR_JAX_METRIC_WEIGHTS", str(tmp_path / "converted"))
    return tmp_path / "converted"


def lpips_state(backbone="alex") -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator)
        for i, width in enumerate(LPIPS_WIDTHS[backbone])
    }


def save(path, state, *, legacy=False):
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    return path


def vouched(path):
    return convert_metric_file(path, vouched=[sha256(path).upper()])


def as_authors(monkeypatch, path):
    """Lets a file of random numbers pass for the authors'."""
    digest = sha256(path)
    monkeypatch.setattr("star_jax.convert.metric_files.is_authors_file", lambda name, other: other == digest)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("backbone", ["alex", "vgg"])
def test_files_of_pytorch(tmp_path, legacy, prefix, backbone):
    state = lpips_state(backbone)
    path = save(tmp_path / "w.pth", {prefix + k: v for k, v in state.items()}, legacy=legacy)
    ((name, (leaves, source)),) = vouched(path).items()
    assert name == f"lpips_{backbone}" and source == {"source": "w.pth", "source_sha256": sha256(path)}
    for i, tensor in enumerate(state.values(), 1):
        np.testing.assert_array_equal(leaves[f"layer{i}"], tensor.flatten().numpy())


def test_views_of_an_old_file_are_read_as_they_are(tmp_path):
    whole = torch.arange(2 * 1475, dtype=torch.float32).view(1475, 2)
    state = {"alpha": whole[:, 0].view(1, 1475, 1, 1), "beta": whole[:, 1].view(1, 1475, 1, 1)}
    leaves, _ = vouched(save(tmp_path / "w.pt", state, legacy=True))["dists"]
    np.testing.assert_array_equal(leaves["alpha"], np.arange(0, 2950, 2))
    np.testing.assert_array_equal(leaves["beta"], np.arange(1, 2950, 2))


def test_a_pickle_of_flax_gives_backbone_and_weights(tmp_path):
    rng = np.random.default_rng(0)
    tree = {"AlexNet_0": {}, **{f"NetLinLayer_{i}": {} for i in range(5)}}
    for index in range(5):
        for leaf in ("kernel", "bias"):
            shape = METRIC_NETWORKS["alexnet"].leaves[f"conv{index + 1}/{leaf}"]
            tree["AlexNet_0"].setdefault(f"Conv_{index}", {})[leaf] = rng.random(shape, np.float32)
        kernel = np.asfortranarray(rng.random((1, 1, LPIPS_WIDTHS["alex"][index], 1), np.float32))
        tree[f"NetLinLayer_{index}"]["Conv_0"] = {"kernel": kernel}
    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(pickle.dumps(tree, protocol=3))
    found = vouched(path)
    assert set(found) == {"alexnet", "lpips_alex"}
    kernel = tree["AlexNet_0"]["Conv_2"]["kernel"]
    np.testing.assert_array_equal(found["alexnet"][0]["conv3/kernel"], kernel)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a complete pickle of Flax parameters"):
        convert_metric_file(path)


class Payload:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("kind", ["flax", "before 1.6"])
def test_pickles_that_would_run_code(tmp_path, kind):
    marker = tmp_path / "marker"
    content = {"alpha": Payload(os.system, f"touch {marker}")}
    path = tmp_path / "w.ckpt"
    if kind == "flax":
        path.write_bytes(pickle.dumps(content))
    else:
        save(path, content, legacy=True)
    with pytest.raises(InputError, match=r"is refused: it would load posix\.system"):
        convert_metric_file(path)
    assert not marker.exists()


def test_constants_of_natural_images(tmp_path):
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    leaves = {name: rng.random(shape) for name, shape in METRIC_NETWORKS["ilniqe"].leaves.items()}
    cell = np.empty((1, 4), object)
    for i, (name, axis) in enumerate(
        (("mean", 0), ("covariance", None), ("feature_mean", 1), ("components", None))
    ):
        cell[0, i] = leaves[name] if axis is None else np.expand_dims(leaves[name], axis)
    savemat(tmp_path / "t.mat", {"templateModel": cell})
    found, _ = vouched(tmp_path / "t.mat")["ilniqe"]
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(found[name], leaf)  # float64 stays


def test_wrong_files_are_named_in_one_line(tmp_path):
    state = lpips_state()
    cases = {
        "is not the authors' file of lpips_alex": state,
        "lacks keys: lin4.model.1.weight": {k: v for k, v in state.items() if "lin4" not in k},
        "has keys that no rule knows: extra": state | {"extra": torch.ones(1)},
        "not finite": state | {"lin2.model.1.weight": torch.full((1, 384, 1, 1), torch.nan)},
        "contains no network of a metric": {"conv.weight": torch.ones(2)},
    }
    for index, (words, content) in enumerate(cases.items()):
        path = save(tmp_path / f"{index}.pth", content)
        with pytest.raises(InputError, match=words) as caught:
            convert_metric_file(path, vouched=[] if index == 0 else [sha256(path)])
        assert "\n" not in str(caught.value)
    for name, data, words in (
        ("a.pth", (tmp_path / "0.pth").read_bytes()[:500], "is not a complete PyTorch file"),
        ("b.npz", b"PK\x03\x04 no", "is not a complete .npz"),
        ("c.mat", b"MATLAB", "is not a complete MATLAB file"),
        ("d.pth", save(tmp_path / "d", state, legacy=True).read_bytes()[:-10], "is truncated"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=words):
            convert_metric_file(tmp_path / name)


def test_nothing_is_written_where_one_file_is_wrong(tmp_path, folder):
    good = save(tmp_path / "good.pth", lpips_state())
    with pytest.raises(InputError):
        convert_metric_files(
            [good, save(tmp_path / "x.pth", {"a": torch.ones(1)})], folder, vouched=[sha256(good)]
        )
    assert not folder.exists()


def test_the_command_converts_what_is_vouched_for(tmp_path, folder, capsys):
    path = save(tmp_path / "w.pth", lpips_state())
    assert main(["convert", str(path), str(folder)]) == 2
    error = capsys.readouterr().err
    assert f"--sha256 {sha256(path)}" in error and error.count("\n") == 1
    assert main(["convert", str(path), str(folder), "--sha256", sha256(path)]) == 0
    assert str(folder / "lpips_alex.safetensors") in capsys.readouterr().out
    leaves, metadata = load_network(folder / "lpips_alex.safetensors")
    assert metadata["source_sha256"] == sha256(path) and leaves["layer1"].shape == (64,)
    assert main(["convert", "--inspect", str(path)]) == 0
    assert "gives: lpips_alex" in capsys.readouterr().out


def test_an_authors_file_is_converted_once(tmp_path, folder, monkeypatch):
    path = save(tmp_path / "alex.pth", lpips_state())
    as_authors(monkeypatch, path)
    params, sources = MetricWeights([path]).load(["lpips_alex"])
    assert sources["lpips_alex"]["source"] == "alex.pth"
    path.unlink()
    again, _ = MetricWeights().load(["lpips_alex"])
    np.testing.assert_array_equal(again["lpips_alex"]["layer3"], params["lpips_alex"]["layer3"])


def test_a_folder_may_hold_converted_and_authors_files(tmp_path, folder, monkeypatch):
    path = save(tmp_path / "alex.pth", lpips_state())
    as_authors(monkeypatch, path)
    MetricWeights([tmp_path]).load(["lpips_alex"])
    (folder / "lpips_alex.safetensors").rename(tmp_path / "lpips_alex.safetensors")
    assert MetricWeights([tmp_path]).load(["lpips_alex"])[1]["lpips_alex"]["network"] == "lpips_alex"


def test_damaged_converted_weights(tmp_path, folder):
    path = save(tmp_path / "w.pth", lpips_state())
    convert_metric_files([path], folder, vouched=[sha256(path)])
    file = folder / "lpips_alex.safetensors"
    whole = file.read_bytes()
    for data, words in (
        (whole[:-4], "cannot be read"),
        (whole[:-4] + b"\0\0\0\1", "its checksum is wrong"),
        (b"", "read"),
    ):
        file.write_bytes(data)
        with pytest.raises(InputError, match=words) as caught:
            MetricWeights().load(["lpips_alex"])
        assert "delete it" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", list(METRIC_NETWORKS))
def test_missing_weights_say_how_to_get_them(name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(InputError, match=f"found no weights of {name}; ") as caught:
        MetricWeights().load([name])
    assert ORIGINS[name].remedy in str(caught.value)
