"""From a work directory to a checkpoint directory: trained leaves over frozen ones, and the mistakes."""

import dataclasses

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from networks import abstract_component
from one_level import ONE_LEVEL

from star_jax.checkpoints.directory import component_metadata, load_component, load_provenance, read_config
from star_jax.checkpoints.trees import flatten
from star_jax.config import TextEncoderConfig, VAEConfig
from star_jax.convert.unet_tables import star_table
from star_jax.data.config import DataConfig
from star_jax.errors import InputError
from star_jax.inference.pipeline import StarPipeline
from star_jax.init.checkpoint import fresh_checkpoint
from star_jax.init.random_checkpoint import random_checkpoint
from star_jax.launch.cli import main
from star_jax.models.architectures import build_model
from star_jax.presets import PRESETS
from star_jax.train.checkpoints import TrainCheckpoints
from star_jax.train.config import ExperimentConfig, ModelConfig, OptimizerConfig, TrainConfig
from star_jax.train.optimizer import make_optimizer
from star_jax.train.star.assemble import assemble
from star_jax.train.state import abstract_state, split_trainable
from star_jax.train.workdir import open_workdir

# Every leaf costs time to write and to read, so these have few, but all four components.
SIZES = dataclasses.replace(
    ONE_LEVEL,
    preset="assembled",
    vae=VAEConfig(block_out_channels=(8,), layers_per_block=1, norm_num_groups=4),
    text_encoder=TextEncoderConfig(514, 16, 32, num_hidden_layers=1, num_attention_heads=2),
)
PRESETS[SIZES.preset] = SIZES


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("assembled") / "checkpoint"
    random_checkpoint(directory, SIZES)
    return directory


def make_run(workdir, base, *, steps=(1, 2), ema_decay=0.9, **model):
    """A work directory as training leaves it; every trained number of step n is n, its average n / 2."""
    config = ExperimentConfig(
        TrainConfig(2, 1, ema_decay=ema_decay),
        DataConfig("synthetic"),
        ModelConfig(SIZES.preset, checkpoint=str(base), **model),
    )
    open_workdir(workdir, config)
    sizes = config.model.star_config()
    model = build_model(sizes)
    networks = model.abstract_params(model.network_components)
    trainable, _ = split_trainable(networks, model.is_trainable)
    optimizer = make_optimizer(OptimizerConfig(), 2)
    checkpoints = TrainCheckpoints(workdir, config.train)
    batches = iter(grain.MapDataset.range(4).to_iter_dataset())
    state = abstract_state(trainable, optimizer, ema_decay=ema_decay)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)
    for step in steps:
        params, average = (
            jax.tree.map(lambda leaf, value=value: np.full(leaf.shape, value, np.float32), trainable)
            for value in (step, step / 2)
        )
        state = state.replace(step=np.int32(step), params=params, ema_params=average if ema_decay else None)
        checkpoints.save(state, batches, {})
    checkpoints.close()
    return sizes, set(flatten(trainable))


def leaves_of(directory, sizes):
    """As arrays of the host, which compares them without a program for each shape."""
    return flatten(
        jax.device_get(
            {
                name: load_component(directory, name, abstract_component(sizes, name)[1])
                for name in build_model(sizes).components
            }
        )
    )


def original_module(sizes, leaves) -> torch.nn.Module:
    """A module with the parameters of the original's network: their names, as state_dict lists them, and shapes."""
    module = torch.nn.Module()
    for rule in star_table(sizes).rules:
        *parents, name = rule.source.split(".")
        place = module
        for parent in parents:
            if not hasattr(place, parent):
                place.add_module(parent, torch.nn.Module())
            place = getattr(place, parent)
        place.register_parameter(
            name, torch.nn.Parameter(torch.empty(rule.source_shape(leaves[rule.target].shape)))
        )
    return module


def test_trained_weights_come_over_the_frozen_ones(tmp_path, checkpoint, capsys):
    sizes, trained = make_run(tmp_path / "run", checkpoint)
    assert main(["assemble", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    assert "the moving average of step 2" in capsys.readouterr().out
    found, base = leaves_of(tmp_path / "out", sizes), leaves_of(checkpoint, sizes)
    assert found.keys() == base.keys()
    for path, leaf in found.items():
        np.testing.assert_array_equal(leaf, 1.0 if path in trained else base[path], err_msg=path)
    assert any(path.startswith("unet/") for path in trained)
    assert load_provenance(tmp_path / "out")["trained"]["step"] == 2
    StarPipeline.from_pretrained(tmp_path / "out")  # with its tokenizer

    assert main(["export", str(tmp_path / "out"), str(tmp_path / "star.pt"), "--quiet"]) == 0
    module = original_module(sizes, found)
    module.load_state_dict(torch.load(tmp_path / "star.pt", weights_only=True), strict=True)
    for rule in star_table(sizes).rules:
        loaded = module.get_parameter(rule.source).detach().numpy()
        np.testing.assert_array_equal(rule.apply(loaded), found[rule.target], err_msg=rule.source)

    arguments = ["--step", "1", "--no-ema", "--force"]
    assert main(["assemble", str(tmp_path / "run"), str(tmp_path / "out"), *arguments]) == 0
    found = leaves_of(tmp_path / "out", sizes)
    assert all((found[path] == 1.0).all() for path in trained)


def test_weights_of_a_dtype(tmp_path, checkpoint):
    sizes, trained = make_run(tmp_path / "run", checkpoint)
    assemble(tmp_path / "run", tmp_path / "out", dtype="bfloat16")
    base, stored = leaves_of(checkpoint, sizes), {}
    for name in build_model(sizes).components:
        metadata = component_metadata(tmp_path / "out", name)
        stored |= {f"{name}/{path}": leaf.dtype for path, leaf in metadata.items()}
    assert set(stored.values()) == {jnp.dtype("bfloat16")}
    for path, leaf in leaves_of(tmp_path / "out", sizes).items():
        expected = 1.0 if path in trained else base[path].astype(jnp.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(leaf, expected, err_msg=path)


def test_relative_paths(tmp_path, checkpoint, monkeypatch):
    make_run(tmp_path / "run", checkpoint)
    monkeypatch.chdir(tmp_path)
    assert main(["assemble", "run", "out"]) == 0


def test_an_ablation_is_assembled_with_its_liem(tmp_path, checkpoint):
    sizes, trained = make_run(tmp_path / "run", checkpoint, ema_decay=0.0, liem_spatial=False)
    assert main(["assemble", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    assert read_config(tmp_path / "out") == sizes
    found = leaves_of(tmp_path / "out", sizes)
    assert not any("liem1/conv" in path for path in found)
    assert all((found[path] == 2.0).all() for path in trained)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step", "7"], "has no checkpoint of step 7; choose one of 1"),
        (["--ema"], "has no moving average"),
        (["--base", "nowhere"], "checkpoint directory nowhere does not exist"),
    ],
)
def test_mistakes_are_one_line(tmp_path, checkpoint, capsys, arguments, message):
    make_run(tmp_path / "run", checkpoint, steps=(1,), ema_decay=0.0)
    assert main(["assemble", str(tmp_path / "run"), str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_no_run_is_a_mistake(tmp_path, capsys):
    assert main(["assemble", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "is not a work directory of star-jax train" in capsys.readouterr().err


@pytest.fixture
def made(monkeypatch):
    """Fresh components are zeros (drawing takes half a minute: each shape compiles) and their names noted."""
    made = []

    def zeros(model, name, seed):
        made.append((name, seed))
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), model.abstract(name))

    monkeypatch.setattr("star_jax.init.checkpoint.fresh_component", zeros)
    return made


def test_a_fresh_checkpoint_is_made_once(tmp_path, made):
    sizes = ModelConfig(SIZES.preset).star_config()
    directory = fresh_checkpoint(tmp_path / "run" / "initial", sizes, seed=3)
    assert made == [(name, 3) for name in build_model(sizes).components]
    assert fresh_checkpoint(directory, sizes, seed=3) == directory and len(made) == 4
    assert (
        fresh_checkpoint(directory, sizes, seed=5) == directory and len(made) == 4
    )  # a run goes on with them
    assert load_provenance(directory)["fresh_seed"] == 3
    assert fresh_checkpoint(directory, sizes, seed=3, renew=True) == directory and len(made) == 4
    fresh_checkpoint(directory, sizes, seed=5, renew=True)
    assert load_provenance(directory)["fresh_seed"] == 5
    assert read_config(directory) == sizes
    StarPipeline.from_pretrained(directory)
    with pytest.raises(InputError, match="cannot start from scratch"):
        fresh_checkpoint(tmp_path / "big", ModelConfig().star_config(), seed=0)


def test_fresh_networks_over_an_autoencoder(tmp_path, made, checkpoint):
    base = read_config(checkpoint)
    sizes = dataclasses.replace(base, vae=dataclasses.replace(base.vae, scaling_factor=0.5))
    directory = fresh_checkpoint(tmp_path / "initial", sizes, seed=3, vae=checkpoint)
    assert [name for name, _ in made] == ["unet", "controlnet", "text_encoder"]
    assert read_config(directory).vae == base.vae  # with the scale that it was trained with
    found, expected = leaves_of(directory, base), leaves_of(checkpoint, base)
    for path in expected:
        if path.startswith("vae/"):
            np.testing.assert_array_equal(found[path], expected[path], err_msg=path)
    with pytest.raises(InputError, match="checkpoint of preset 'tiny-golden'"):
        fresh_checkpoint(tmp_path / "other", ModelConfig("tiny-golden").star_config(), seed=3, vae=checkpoint)
