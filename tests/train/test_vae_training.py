"""Training an autoencoder: fresh weights, the loss against plain numbers, and the whole command."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dwarf import dwarf
from flax import nnx
from networks import abstract_component

from star_jax.checkpoints.directory import load_component, load_provenance, read_config
from star_jax.checkpoints.trees import flatten
from star_jax.diffusion.noise import frame_noise
from star_jax.init.component import fresh_component
from star_jax.launch.cli import main
from star_jax.models.architectures import build_model
from star_jax.presets import PRESETS
from star_jax.train.autoencoder.config import VaeExperimentConfig
from star_jax.train.autoencoder.objective import VaeObjective
from star_jax.train.config import from_groups

SIZES = dwarf(6, 8, 2, (4, 4))
VALUES = {
    "train": {
        "num_steps": 2,
        "batch_size": 2,
        "remat": "none",
        "ema_decay": 0.5,
        "validation_batches": 1,
        "curves": False,
    },
    "data": {"source": "synthetic:3", "num_frames": 3, "height": 16, "width": 16, "recipe": "none"},
    "model": {"preset": "dwarf"},
}


@pytest.fixture(autouse=True)
def preset(monkeypatch):
    monkeypatch.setitem(PRESETS, "dwarf", SIZES)


def objective_of(**loss) -> VaeObjective:
    return VaeObjective(from_groups(VaeExperimentConfig, {**VALUES, "loss": loss}))


def batch_of(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "gt": rng.integers(0, 256, (2, 3, 16, 16, 3), np.uint8),
        "lq": rng.integers(0, 256, (2, 3, 4, 4, 3), np.uint8),
        "index": np.array([7, 40], np.int32),
    }


def test_fresh_weights_are_a_function_of_the_seed():
    first, again, other = (flatten(fresh_component(build_model(SIZES), "vae", seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(first[path], again[path]) for path in first)
    assert any(not np.array_equal(first[path], other[path]) for path in first)


def test_a_fresh_autoencoder_has_closed_branches_and_a_fresh_controlnet_open_gates():
    vae = flatten(fresh_component(build_model(SIZES), "vae", 0))
    ends = [path for path in vae if "conv2" in path or "to_out" in path]
    assert len(ends) > 8 and not any(np.any(vae[path]) for path in ends)
    controlnet = flatten(fresh_component(build_model(SIZES), "controlnet", 0))
    assert np.any(controlnet["controlnet_cond_embedding/kernel"])
    gates = [path for path in controlnet if path.startswith("controlnet_") and path.endswith("kernel")]
    assert len(gates) > 3 and all(np.any(controlnet[path]) for path in gates)


def test_contrast_passes_a_fresh_autoencoder():
    """Its norms divide by a deviation that the biases hold up: twice the contrast gives about twice the latents."""
    sizes = PRESETS["tiny-star"]
    graph, _ = abstract_component(sizes, "vae")
    params = fresh_component(build_model(sizes), "vae", 0)
    encode = jax.jit(lambda params, frames: nnx.merge(graph, params).encode(frames).mean)
    frames = jax.random.uniform(jax.random.key(0), (1, 1, 16, 16, 3)) - 0.5
    rest, weak, strong = (np.asarray(encode(params, c * frames)) for c in (0.0, 0.2, 0.4))
    ratio = np.abs(strong - rest).mean() / np.abs(weak - rest).mean()
    assert 1.6 < ratio < 2.4


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_loss_against_plain_numbers(share):
    objective = objective_of(gradient_weight=2.0, kl_weight=0.25, degraded_share=share)
    params = {"vae": fresh_component(build_model(SIZES), "vae", 0)}
    batch, key = batch_of(), jax.random.key(3)
    loss, metrics = jax.jit(objective.loss)(params, {}, batch, key)

    frames = batch["gt"] / 127.5 - 1.0
    if share:
        frames = jax.image.resize(batch["lq"] / 127.5 - 1.0, frames.shape, "bilinear")
    graph, _ = abstract_component(SIZES, "vae")
    encode, decode = (
        jax.jit(lambda params, x, method=method: getattr(nnx.merge(graph, params), method)(x))
        for method in ("encode", "decode")
    )
    posterior = encode(params["vae"], jnp.asarray(frames, jnp.float32))
    keys = [jax.random.fold_in(key, index) for index in batch["index"]]
    shape = (1, *posterior.mean.shape[1:])
    noise = jnp.concatenate([frame_noise(key, "posterior", shape) for key in keys])
    mean, logvar = np.asarray(posterior.mean, np.float64), np.asarray(posterior.logvar, np.float64)
    error = np.asarray(decode(params["vae"], posterior.sample(noise))) - frames
    pixel = np.abs(error).mean()
    gradient = np.abs(np.diff(error, axis=2)).mean() + np.abs(np.diff(error, axis=3)).mean()
    kl = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar).mean()
    np.testing.assert_allclose(metrics["loss_pixel"], pixel, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss_gradient"], gradient, rtol=1e-5)
    np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-5)
    np.testing.assert_allclose(loss, pixel + 2.0 * gradient + 0.25 * kl, rtol=1e-5)


def test_pieces_of_a_batch_draw_what_the_whole_does():
    """As with train.grad_accumulation: the mean of the pieces' losses is the batch's."""
    objective = objective_of(degraded_share=0.5)
    params = {"vae": fresh_component(build_model(SIZES), "vae", 0)}
    batch, key = batch_of(), jax.random.key(3)
    whole = objective.loss(params, {}, batch, key)[0]
    pieces = [{name: x[i : i + 1] for name, x in batch.items()} for i in range(2)]
    losses = [objective.loss(params, {}, piece, key)[0] for piece in pieces]
    np.testing.assert_allclose(np.mean(losses), whole, rtol=1e-6)


def test_the_command_makes_a_checkpoint_to_train_from(tmp_path, capsys):
    file = tmp_path / "config.py"
    lines = [
        "from star_jax.train.autoencoder.config import VaeExperimentConfig",
        "from star_jax.train.config import from_groups",
        f"def get_config():\n    return from_groups(VaeExperimentConfig, {VALUES!r})",
    ]
    file.write_text("\n".join(lines))
    arguments = ["train-vae", "--config", str(file), "--workdir", str(tmp_path / "run"), "--quiet"]
    assert main(arguments) == 0, capsys.readouterr().err
    directory = tmp_path / "run" / "checkpoint"
    stored = read_config(directory)
    assert stored.vae.scaling_factor != SIZES.vae.scaling_factor
    assert dataclasses.replace(stored, vae=SIZES.vae) == SIZES
    assert load_provenance(directory)["components"]["vae"]["step"] == 2
    trained = flatten(load_component(directory, "vae", abstract_component(SIZES, "vae")[1]))
    fresh = flatten(fresh_component(build_model(SIZES), "vae", 0))
    assert any(not np.array_equal(trained[path], fresh[path]) for path in fresh)
    assert main(arguments) == 0  # nothing left to do: written again
