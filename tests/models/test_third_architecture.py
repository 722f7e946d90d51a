"""An architecture that is only registered runs through everything that is asked of a model."""

import dataclasses
import gc
import math
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import count_compilations
from toy_architecture import Toy

from star_jax.benchmark.inference import InferenceBenchmark, count_inference
from star_jax.checkpoints.directory import read_config
from star_jax.data.config import DataConfig
from star_jax.diffusion.losses import LossConfig
from star_jax.errors import InputError
from star_jax.inference.memory import plan_memory
from star_jax.inference.pieces import decode_chunk, encode_chunk
from star_jax.inference.pipeline import StarPipeline
from star_jax.inference.settings import UpscaleSettings
from star_jax.init.random_checkpoint import random_checkpoint
from star_jax.models.architectures import build_model, read_model_config
from star_jax.presets import get_preset
from star_jax.train.checkpoints import restore_weights
from star_jax.train.config import ExperimentConfig, ModelConfig, TrainConfig
from star_jax.train.loop import train
from star_jax.train.operations import step_flops
from star_jax.train.star.objective import StarObjective

FRAMES, LATENTS = 5, 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("toy") / "checkpoint"
    random_checkpoint(directory, "toy")
    return directory


@pytest.fixture(scope="module")
def clip():
    """Six frames, which are filled up to seven: three latents' pairs of frames and the first."""
    return np.random.default_rng(0).integers(0, 256, (6, 6, 5, 3), np.uint8)


def test_the_registry_finds_it_by_name(checkpoint):
    config = read_config(checkpoint)
    assert config == get_preset("toy") and isinstance(build_model(config), Toy)
    with pytest.raises(InputError, match="architecture is 'none'; choose one of i2vgen-xl, cogvideox, toy"):
        read_model_config('{"preset": "x", "architecture": "none"}')


def test_pipeline_in_its_own_chunks(checkpoint, clip):
    pipeline, calls = StarPipeline.from_pretrained(checkpoint), []
    out = pipeline(clip, on_progress=lambda *call: calls.append(call))
    assert out.shape == (6, 24, 20, 3) and out.std() > 1
    assert calls == [
        ("encode", 6, 6),
        ("sample", 1, 2),
        ("sample", 2, 2),
        ("decode", 3, 6),
        ("decode", 5, 6),
        ("decode", 6, 6),
    ]
    # Frames between latents are the mean of their neighbours, in one chunk and from one chunk to the next.
    for between in (1, 3, 5):
        neighbours = out[between - 1], out[min(between + 1, 5)]
        if between < 5:
            mean = np.mean(neighbours, axis=0)
            inside = (np.min(neighbours, axis=0) > 0) & (np.max(neighbours, axis=0) < 255)
            assert inside.any() and np.abs(out[between] - mean)[inside].max() <= 1


def test_a_second_pipeline_of_an_equal_model_compiles_nothing(checkpoint, clip):
    programs = encode_chunk, decode_chunk
    StarPipeline.from_pretrained(checkpoint)(clip)
    compiled = [program._cache_size() for program in programs]
    StarPipeline.from_pretrained(checkpoint)(clip[::-1].copy())
    assert [program._cache_size() for program in programs] == compiled


def test_tiles_carry_what_they_keep(checkpoint, clip):
    """The codec sees single pixels, so that tiles change nothing."""
    pipeline, wide = StarPipeline.from_pretrained(checkpoint), clip.repeat(4, 1)
    whole, tiled = (pipeline(wide, vae_tile=tile, scale=1).astype(int) for tile in (None, (16, 8)))
    assert np.abs(whole - tiled).max() <= 1


def test_memory_plan():
    plan = plan_memory(build_model(get_preset("toy")), UpscaleSettings(), 6, (60, 50), budget=11 * 2**20)
    assert plan.peak <= 11 * 2**20 and plan.settings.vae_tile is not None


def test_count_of_operations():
    row = count_inference(InferenceBenchmark("network", "toy", frames=FRAMES, height=16, width=16))
    assert row["component"] == "convolution"
    assert row["tflop_per_step"] == pytest.approx(1e-12 * 2 * 9 * 6 * 3 * LATENTS * 4 * 4)
    whole = count_inference(
        InferenceBenchmark("pipeline", "toy", frames=FRAMES, height=16, width=16, steps=3)
    )
    codec = 1e-12 * 2 * 3 * 3 * LATENTS * 4 * 4
    assert whole["tflop_per_step"] == pytest.approx(3 * row["tflop_per_step"] + codec)


def experiment(checkpoint, **data) -> ExperimentConfig:
    sizes = {"num_frames": FRAMES, "frame_interval": 1, "height": 16, "width": 16}
    return ExperimentConfig(
        TrainConfig(num_steps=3, batch_size=2, validate_every_steps=1, curves=False),
        DataConfig("synthetic:4", **{**sizes, **data}),
        ModelConfig("toy", checkpoint=str(checkpoint)),
        LossConfig(decode_group=LATENTS),
    )


def objective_of(config: ExperimentConfig) -> StarObjective:
    return StarObjective(config.model, config.diffusion, config.data, config.train)


def programs_after_each_validation(objective, config, workdir) -> list[int]:
    """Trains, with a validation after every step, and returns how many programs were compiled by each of them."""
    counts, validate = [], objective.validate

    def counted(*arguments):
        scores = validate(*arguments)
        counts.append(len(compilations))
        return scores

    objective.validate = counted
    with count_compilations() as compilations:
        assert train(objective, config, workdir, quiet=True).finished
    return counts


def test_training(checkpoint, tmp_path):
    """A second step and a second validation compile nothing, and no program keeps the objective alive."""
    config = experiment(checkpoint)
    objective = objective_of(config)
    trainable, frozen = objective.abstract_params()
    assert (list(trainable), list(frozen)) == (["convolution"], ["codec"])
    counts = programs_after_each_validation(objective, config, tmp_path / "run")
    assert len(counts) == 3 and len(set(counts)) == 1 and counts[0] > 0
    before, _ = objective.load(trainable, frozen)
    _, after = restore_weights(tmp_path / "run", trainable, ema=False)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before, after)
    assert all(0 < distance < math.inf for distance in jax.tree.leaves(moved))
    reference = weakref.ref(objective)
    del objective
    gc.collect()
    assert reference() is None


def test_operations_of_a_training_step(checkpoint):
    network, codec = 2 * 9 * 6 * 3 * 2 * LATENTS * 16, 2 * 3 * 3 * 2 * LATENTS * 16
    enlarged = 10 * 2 * 3 * (16 * 4 * 4 + 16 * 4 * 16)  # frames, along height and along width
    # Forward and the gradient of the weights; both clips are encoded, and nothing is decoded by a product.
    assert step_flops(objective_of(experiment(checkpoint)), 2) == 2 * network + 2 * codec + enlarged


def test_clips_that_training_does_not_take(checkpoint):
    config = experiment(checkpoint)
    with pytest.raises(InputError, match="decodes all latents of a clip together; set it to 3"):
        objective_of(dataclasses.replace(config, diffusion=LossConfig(decode_group=2)))
    with pytest.raises(InputError, match=r"num_frames is 4, which the model does not support; .* such as 5"):
        objective_of(experiment(checkpoint, num_frames=4))
    with pytest.raises(InputError, match=r"width is 20, which the network does not support; .* such as 16"):
        objective_of(experiment(checkpoint, width=20))
