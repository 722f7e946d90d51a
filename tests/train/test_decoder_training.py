"""Training a light decoder: the clips, the loss against plain numbers, the whole command, and its checkpoint."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from star_jax.checkpoints.directory import create_checkpoint, read_config, save_component
from star_jax.config import DiffusionConfig, SamplingConfig, StarConfig, UNetConfig, VAEConfig
from star_jax.data.restored import RestoredSource
from star_jax.errors import InputError
from star_jax.inference.pipeline import StarPipeline
from star_jax.init.component import fresh_component
from star_jax.launch.cli import main
from star_jax.models.architectures import build_model
from star_jax.train.config import from_groups
from star_jax.train.decoder.config import DecoderExperimentConfig
from star_jax.train.decoder.objective import COMPONENT, DecoderObjective

SIZES = StarConfig(
    "dwarf",
    unet=UNetConfig(
        in_channels=6,
        out_channels=6,
        block_out_channels=(8, 8),
        attention_levels=(False, False),
        layers_per_block=1,
        attention_head_dim=4,
        transformer_in_heads=1,
        cross_attention_dim=4,
        norm_num_groups=2,
    ),
    vae=VAEConfig(latent_channels=6, block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2),
    text_encoder=None,
    diffusion=DiffusionConfig(),
    sampling=SamplingConfig(1, guidance_scale=1.0, color_fix="wavelet"),
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model with an autoencoder of eight pixels a latent, from nothing."""
    directory = tmp_path_factory.mktemp("dwarf") / "checkpoint"
    model = build_model(SIZES)
    with create_checkpoint(directory, SIZES, {"preset": "dwarf", "components": {}}) as partial:
        for name in model.components:
            save_component(partial, name, fresh_component(model, name, 0))
    return directory


def values(checkpoint, **groups) -> dict:
    defaults = {
        "train": {"num_steps": 2, "batch_size": 2, "remat": "none", "ema_decay": 0.5},
        "data": {
            "source": "synthetic:3",
            "num_frames": 3,
            "frame_interval": 1,
            "height": 32,
            "width": 32,
            "recipe": "light",
        },
        "clips": {"count": 3, "validation_count": 1, "mild_share": 0.5, "mild_recipe": "none"},
        "model": {"checkpoint": str(checkpoint), "channels": (8, 6, 4), "blocks": (1, 1, 1)},
        "loss": {"perceptual_weight": 0.0},
    }
    return {name: group | groups.get(name, {}) for name, group in defaults.items()}


@pytest.fixture(scope="module")
def trained(checkpoint, tmp_path_factory):
    """The work directory of the whole command, and the command."""
    root = tmp_path_factory.mktemp("decoder")
    file = root / "config.py"
    lines = [
        "from star_jax.train.decoder.config import DecoderExperimentConfig",
        "from star_jax.train.config import from_groups",
        f"def get_config():\n    return from_groups(DecoderExperimentConfig, {values(checkpoint)!r})",
    ]
    file.write_text("\n".join(lines))
    command = ["train-decoder", "--config", str(file), "--workdir", str(root / "run"), "--quiet"]
    assert main(command) == 0
    return root / "run", command


def test_clips_hold_what_the_network_makes_of_the_degraded_frames(trained, checkpoint):
    source = RestoredSource(str(trained[0] / "clips/train"))
    assert len(source) == 3
    clip = source[1].load(from_groups(DecoderExperimentConfig, values(checkpoint)).data, 5)
    assert clip["gt"].shape == (3, 32, 32, 3) and clip["lq"].shape == (3, 8, 8, 3)
    assert clip["latents"].shape == (3, 4, 4, 6) and clip["index"] == 5
    assert np.isfinite(clip["latents"]).all() and clip["latents"].std() > 0


def test_the_command_goes_on_and_refuses_clips_of_other_settings(trained, capsys):
    workdir, command = trained
    lost = workdir / "clips/train/000001.npz"
    content = lost.read_bytes()
    lost.unlink()
    (workdir / "clips/train/restored.json").unlink()
    assert main(command) == 0  # made again, the very same
    assert lost.read_bytes() == content
    assert main([*command, "--config.clips.count=4", "--allow-changed-config"]) == 2
    assert "clips of other settings" in capsys.readouterr().err


def test_the_checkpoint_upscales_with_either_decoder(trained, checkpoint):
    directory = trained[0] / "checkpoint"
    stored = read_config(directory)
    assert dataclasses.replace(stored, light_decoder=None) == SIZES
    pipeline = StarPipeline.from_pretrained(directory)
    frames = np.random.default_rng(0).integers(0, 256, (4, 9, 8, 3), np.uint8)
    by_default, tiny, near, full = (
        pipeline(frames, **settings)
        for settings in ({}, {"decoder": "tiny"}, {"fidelity": 1.0}, {"decoder": "full"})
    )
    assert by_default.shape == full.shape == (4, 36, 32, 3)
    np.testing.assert_array_equal(by_default, tiny)
    assert np.any(near != tiny) and np.any(full != tiny)
    before = StarPipeline.from_pretrained(checkpoint)
    np.testing.assert_array_equal(before(frames), full)  # the other weights are as they were
    with pytest.raises(InputError, match="no light decoder"):
        before(frames, decoder="tiny")
    with pytest.raises(InputError, match="knob of the tiny decoder"):
        pipeline(frames, decoder="full", fidelity=0.5)
    with pytest.raises(InputError, match="choose 0"):
        pipeline(frames, fidelity=1.5)
    twice = pipeline(frames, scale=2.0)
    np.testing.assert_array_equal(
        twice, pipeline(frames, scale=2.0, decoder="full")
    )  # far from the trained scale
    assert pipeline(frames, scale=3.3, decoder="tiny").shape == (4, 30, 26, 3)


def test_the_loss_against_plain_numbers(checkpoint):
    config = from_groups(
        DecoderExperimentConfig, values(checkpoint, loss={"motion_weight": 2.0, "perceptual_weight": 0.0})
    )
    objective = DecoderObjective(config)
    params = {COMPONENT: nnx.to_pure_dict(nnx.state(objective.module()))}
    rng = np.random.default_rng(0)
    batch = {
        "gt": rng.integers(0, 256, (2, 3, 32, 32, 3), np.uint8),
        "lq": rng.integers(0, 256, (2, 3, 8, 8, 3), np.uint8),
        "latents": rng.standard_normal((2, 3, 4, 4, 6)).astype(np.float16),
        "index": np.array([7, 40], np.int32),
    }
    loss, metrics = objective.loss(params, {}, batch, jax.random.key(3))
    # A fresh decoder gives the enlarged input.
    low = jax.image.resize(jnp.asarray(batch["lq"] / 127.5 - 1.0), batch["gt"].shape, "bilinear")
    error = np.asarray(low) - (batch["gt"] / 127.5 - 1.0)
    pixel, motion = np.abs(error).mean(), np.abs(np.diff(error, axis=1)).mean()
    np.testing.assert_allclose(metrics["loss_pixel"], pixel, rtol=1e-4)
    np.testing.assert_allclose(loss, pixel + 2.0 * motion, rtol=1e-4)


def test_fidelities_are_drawn_as_the_shares_say(checkpoint):
    shares = {"fidelity_share": 0.5, "detail_share": 0.3, "perceptual_weight": 0.0}
    objective = DecoderObjective(from_groups(DecoderExperimentConfig, values(checkpoint, loss=shares)))
    drawn = np.asarray(jax.vmap(objective._draw_fidelity)(jax.random.split(jax.random.key(0), 2000)))
    assert np.mean(drawn == 1) == pytest.approx(0.5, abs=0.05)
    assert np.mean(drawn == 0) == pytest.approx(0.3, abs=0.05)
    assert 0 <= drawn.min() and drawn.max() <= 1


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"data": {"height": 40}}, "choose 48x32"),
        ({"loss": {"fidelity_share": 0.7, "detail_share": 0.6}}, "over 1"),
        ({"clips": {"mild_recipe": "nothing"}}, "no degradation recipe"),
        ({"clips": {"count": 0}}, "clips.count is 0"),
        ({"loss": {"perceptual_weight": 0.1, "metric_weights": "nowhere"}}, "nowhere"),
    ],
)
def test_what_does_not_fit_is_refused(checkpoint, groups, message):
    with pytest.raises(InputError, match=message):
        DecoderObjective(from_groups(DecoderExperimentConfig, values(checkpoint, **groups)))


def test_a_damaged_index_is_refused(trained, tmp_path):
    shutil.copytree(trained[0] / "clips/validation", tmp_path / "clips")
    (tmp_path / "clips/restored.json").write_text("{")
    with pytest.raises(InputError, match="make the clips again"):
        RestoredSource(str(tmp_path / "clips"))
