"""`star-jax benchmark train`: what a report holds, on a task of a few numbers."""

import jax
import jax.numpy as jnp
import pytest

from star_jax.benchmark import training
from star_jax.benchmark.training import measure_training
from star_jax.errors import InputError
from star_jax.launch.cli import main
from star_jax.launch.experiment import run_config_file, with_changes
from star_jax.train.operations import step_flops


class Toy:
    """The part of `Objective` that a measurement asks for: a linear map of pixels."""

    def abstract_params(self):
        leaf = jax.ShapeDtypeStruct((3, 3), jnp.float32)
        return {"controlnet": {"kernel": leaf}}, {"unet": {"kernel": leaf}}

    def abstract_batch(self, batch_size):
        return {"gt": jax.ShapeDtypeStruct((batch_size, 4, 80, 64, 3), jnp.uint8)}

    def loss(self, trainable, frozen, batch, key):
        pixels = batch["gt"] / 255
        out = pixels @ frozen["unet"]["kernel"] @ trainable["controlnet"]["kernel"]
        loss = jnp.mean((out - pixels + jax.random.normal(key, (3,))) ** 2)
        return loss, {"loss_velocity": loss}


def experiment():
    return with_changes(run_config_file("configs/tiny.py"), ["--config.train.batch_size=2"])


def test_a_step_is_timed():
    report = measure_training(Toy(), experiment(), repeats=3, device_peak=1.0)
    assert (report["benchmark"], report["preset"], report["batch"]) == ("train", "tiny-star", 2)
    assert len(report["step_seconds"]) == 3
    for key in ("seconds_per_step", "compile_seconds", "mfu", "peak_device_bytes", "tflop_compiled"):
        assert report[key] > 0, key
    assert report["tflop_per_step"] * 1e12 == step_flops(Toy(), 2) > 0
    assert report["seconds_per_frame"] == pytest.approx(report["seconds_per_step"] / (2 * 4))
    assert report["mesh"] == {"data": 1, "fsdp": 1, "context": 1}


def test_mistakes():
    with pytest.raises(InputError, match="repeats is 0; choose at least 1"):
        measure_training(Toy(), experiment(), repeats=0)


def test_the_full_size_configuration_needs_no_checkpoint(monkeypatch):
    """Its checkpoint is not there; the step that would be measured is traced as far as its shapes."""
    asked = {}

    def measure(objective, config, **_):
        asked.update(batch=objective.abstract_batch(1), trainable=objective.abstract_params()[0])
        raise InputError("far enough")

    monkeypatch.setattr(training, "measure_training", measure)
    assert main(["benchmark", "train", "--config", "configs/star_i2vgenxl.py"]) == 2
    assert asked["batch"]["gt"].shape == (1, 32, 720, 1280, 3)
    assert sum(leaf.size for leaf in jax.tree.leaves(asked["trainable"])) > 6e8
