"""Training a light decoder: the clips, the loss against plain numbers, the whole command, and its checkpoint."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dwarf import dwarf
from flax import nnx

from star_jax.checkpoints.directory import create_checkpoint, load_component, read_config, save_component
from star_jax.config import LightDecoderConfig, SamplingConfig
from star_jax.data.restored import RestoredSource
from star_jax.errors import InputError
from star_jax.evaluation.weights import MetricWeights
from star_jax.inference.pieces import Finish, decode_light_chunk
from star_jax.inference.pipeline import StarPipeline
from star_jax.inference.settings import UpscaleSettings
from star_jax.init.component import fresh_component
from star_jax.launch.cli import main
from star_jax.models.architectures import build_model
from star_jax.models.light_decoder.decoder import COMPONENT
from star_jax.ops.pixels import enlarge
from star_jax.train.config import from_groups
from star_jax.train.decoder.config import DecoderExperimentConfig
from star_jax.train.decoder.objective import HEADS, DecoderObjective
from star_jax.train.sample_draws import sample_keys

SAMPLING = SamplingConfig(1, guidance_scale=1.0, color_fix="wavelet")
SIZES = dwarf(6, 8, 2, (4, 4, 4, 4), levels=1, sampling=SAMPLING)


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
        "train": {"num_steps": 2, "batch_size": 2, "remat": "none", "ema_decay": 0.5, "curves": False},
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
    assert "clips made with other settings" in capsys.readouterr().err


def test_the_checkpoint_upscales_with_either_decoder(trained):
    directory = trained[0] / "checkpoint"
    assert dataclasses.replace(read_config(directory), light_decoder=None) == SIZES
    pipeline = StarPipeline.from_pretrained(directory)
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    tiny, near, full = (pipeline(frames, **s) for s in ({}, {"fidelity": 1.0}, {"decoder": "full"}))
    assert tiny.shape == full.shape == (4, 32, 32, 3)
    assert np.any(near != tiny) and np.any(full != tiny)


def test_which_decoder_and_what_fidelity():
    light = build_model(dataclasses.replace(SIZES, light_decoder=LightDecoderConfig(fidelity=0.2)))
    without = build_model(SIZES)
    assert UpscaleSettings().light_fidelity(light) == 0.2
    assert UpscaleSettings(scale=4.5, fidelity=0.7).light_fidelity(light) == 0.7
    assert UpscaleSettings(scale=2.0).light_fidelity(light) is None  # far from the trained scale
    assert UpscaleSettings(scale=2.0, decoder="tiny").light_fidelity(light) == 0.2
    assert UpscaleSettings(decoder="full").light_fidelity(light) is None
    assert UpscaleSettings().light_fidelity(without) is None
    for settings in (UpscaleSettings(decoder="tiny"), UpscaleSettings(fidelity=0.5)):
        with pytest.raises(InputError, match="no light decoder"):
            settings.light_fidelity(without)
    with pytest.raises(InputError, match="setting of the tiny decoder"):
        UpscaleSettings(decoder="full", fidelity=0.5).light_fidelity(light)
    with pytest.raises(InputError, match="choose 0"):
        UpscaleSettings(fidelity=1.5)


@pytest.mark.parametrize(("size", "scale"), [((9, 8), 4.0), ((9, 8), 3.3), ((70, 40), 4.0)])
def test_sizes_that_need_padding_or_another_scale_or_tiles(size, scale):
    """A fresh decoder gives the input enlarged: nothing is shifted, whatever the padding and the tiles."""
    model = build_model(dataclasses.replace(SIZES, light_decoder=LightDecoderConfig((4, 4, 4), (1, 1, 1))))
    params = {name: fresh_component(model, name, 0) for name in model.light_components}
    settings = UpscaleSettings(scale=scale, vae_tile=(96, 96) if size[0] == 70 else None)
    canvas = StarPipeline(model, params, None).canvas(size, settings)
    assert (len(canvas.tiles) > 1) == (size[0] == 70)
    frames = np.linspace(0, 255, 3 * size[0] * size[1] * 3).reshape(3, *size, 3).astype(np.uint8)
    padded = canvas.padding.padded_size(*canvas.target)
    latents = np.ones((1, 3, padded[0] // 8, padded[1] // 8, model.latent_channels), np.float32)
    first = decode_light_chunk(model, canvas, Finish(), params, latents, None, np.float32(0), frames)
    again = decode_light_chunk(model, canvas, Finish(), params, latents, first[2], np.float32(0), frames)
    expected = enlarge(frames.astype(np.float32), canvas.target)
    assert first[0].shape == expected.shape and bool(first[1])
    np.testing.assert_allclose(first[0], expected, atol=1.0 if scale == 4 else 6.0)
    np.testing.assert_array_equal(first[0], again[0])


def test_areas_of_one_colour_stay_as_they_are():
    """A decoder with random weights leaves the bars of a letterbox alone."""
    sizes = LightDecoderConfig((4, 4, 4), (1, 1, 1))
    model = build_model(dataclasses.replace(SIZES, light_decoder=sizes))
    rng = np.random.default_rng(0)
    fresh = {name: fresh_component(model, name, 0) for name in model.light_components}
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(leaf.dtype), fresh)
    canvas = StarPipeline(model, params, None).canvas((24, 16), UpscaleSettings())
    frames = rng.integers(0, 256, (3, 24, 16, 3), np.uint8)
    frames[:, :12] = (16, 40, 200)
    rows, columns = (side // 8 for side in canvas.padding.padded_size(*canvas.target))
    latents = rng.normal(size=(1, 3, rows, columns, model.latent_channels)).astype(np.float32)
    finish = Finish("flat-wavelet")
    decoded = decode_light_chunk(model, canvas, finish, params, latents, None, np.float32(0), frames)[0]
    assert np.abs(np.asarray(decoded[:, :16], np.int32) - (16, 40, 200)).max() == 0
    enlarged = np.asarray(enlarge(frames.astype(np.float32), canvas.target))
    assert np.abs(np.asarray(decoded[:, 60:]) - enlarged[:, 60:]).max() > 8


def random_batch(frames: int, side: int) -> dict[str, np.ndarray]:
    """Two clips of so many square frames, as the loss takes them."""
    rng = np.random.default_rng(0)
    return {
        "gt": rng.integers(0, 256, (2, frames, side, side, 3), np.uint8),
        "lq": rng.integers(0, 256, (2, frames, side // 4, side // 4, 3), np.uint8),
        "latents": rng.standard_normal((2, frames, side // 8, side // 8, 6)).astype(np.float16),
        "index": np.array([7, 40], np.int32),
    }


def test_the_loss_against_plain_numbers(checkpoint):
    config = from_groups(
        DecoderExperimentConfig, values(checkpoint, loss={"motion_weight": 2.0, "perceptual_weight": 0.0})
    )
    objective = DecoderObjective(config)
    params = {COMPONENT: nnx.to_pure_dict(nnx.state(objective.module()))}
    batch = random_batch(frames=3, side=32)
    loss, metrics = jax.jit(objective.loss)(params, {}, batch, jax.random.key(3))
    # A fresh decoder gives the enlarged input.
    low = jax.image.resize(jnp.asarray(batch["lq"] / 127.5 - 1.0), batch["gt"].shape, "bilinear")
    error = np.asarray(low) - (batch["gt"] / 127.5 - 1.0)
    fidelity = np.asarray(jax.vmap(objective._draw_fidelity)(sample_keys(jax.random.key(3), batch)))
    absolute, square = (function(error).mean((1, 2, 3, 4)) for function in (np.abs, np.square))
    pixel = (fidelity * 0.1 * np.log(square / 1e-4 + 1) + (1 - fidelity) * absolute).mean()
    motion = np.abs(np.diff(error, axis=1)).mean()
    np.testing.assert_allclose(metrics["loss_pixel"], pixel, rtol=1e-4)
    np.testing.assert_allclose(loss, pixel + 2.0 * motion, rtol=1e-4)


@pytest.fixture
def random_networks(monkeypatch):
    """LPIPS' networks with random weights."""
    rng = np.random.default_rng(5)
    sizes = [(11, 3, 64), (5, 64, 192), (3, 192, 384), (3, 384, 256), (3, 256, 256)]
    alexnet = {}
    for number, (side, inside, out) in enumerate(sizes, 1):
        scale = (side * side * inside) ** -0.5
        alexnet[f"conv{number}/kernel"] = scale * rng.standard_normal((side, side, inside, out))
        alexnet[f"conv{number}/bias"] = np.zeros(out)
    weights = {f"layer{number}": rng.random(out) for number, (_, _, out) in enumerate(sizes, 1)}
    networks = jax.tree.map(lambda x: x.astype(np.float32), {"alexnet": alexnet, "lpips_alex": weights})
    monkeypatch.setattr(
        MetricWeights, "load", lambda self, names: ({name: networks[name] for name in names}, [])
    )
    return networks


def test_heads_and_decoder_teach_each_other_and_nothing_else(checkpoint, random_networks):
    batch = random_batch(frames=2, side=48)

    loss = {"adversarial_weight": 1.0, "head_width": 4, "fidelity_share": 0.0, "detail_share": 1.0}
    objective = DecoderObjective(from_groups(DecoderExperimentConfig, values(checkpoint, loss=loss)))
    trainable = {
        COMPONENT: nnx.to_pure_dict(nnx.state(objective.module())),
        HEADS: objective.heads.fresh(1),
    }
    frozen = jax.tree.map(jnp.asarray, random_networks)

    @jax.jit
    def gradients(weight):
        object.__setattr__(objective.config.loss, "adversarial_weight", weight)  # one program for both
        return jax.grad(lambda p: objective.loss(p, frozen, batch, jax.random.key(3))[0])(trainable)

    once, thrice = gradients(1.0), gradients(3.0)
    for ours, theirs in zip(*(jax.tree.leaves(g[HEADS]) for g in (once, thrice)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert max(np.abs(g).max() for g in jax.tree.leaves(once[HEADS])) > 0
    ours, theirs = (g[COMPONENT]["conv_out"]["kernel"] for g in (once, thrice))
    assert np.abs(ours - theirs).max() > 1e-6
    assert np.all(once[COMPONENT]["linear"]["kernel"] == 0)  # it stays as least squares found it


def test_training_goes_on_from_the_checkpoints_decoder(trained):
    checkpoint = trained[0] / "checkpoint"
    objective = DecoderObjective(from_groups(DecoderExperimentConfig, values(checkpoint)))
    decoder = load_component(checkpoint, COMPONENT, objective.model.abstract(COMPONENT))
    for ours, theirs in zip(*(jax.tree.leaves(tree) for tree in (objective._start(), decoder)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_fidelities_are_drawn_as_the_shares_say(checkpoint):
    shares = {"fidelity_share": 0.5, "detail_share": 0.3, "perceptual_weight": 0.0}
    objective = DecoderObjective(from_groups(DecoderExperimentConfig, values(checkpoint, loss=shares)))
    drawn = np.asarray(jax.vmap(objective._draw_fidelity)(jax.random.split(jax.random.key(0), 2000)))
    assert np.mean(drawn == 1) == pytest.approx(0.5, abs=0.05)
    assert np.mean(drawn == 0) == pytest.approx(0.3, abs=0.05)
    assert drawn.min() >= 0 and drawn.max() <= 1


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"data": {"height": 36}}, "choose 40x32"),
        ({"loss": {"fidelity_share": 0.7, "detail_share": 0.6}}, "above 1"),
        ({"clips": {"mild_recipe": "nothing"}}, "no degradation recipe"),
        ({"clips": {"count": 0}}, "clips.count is 0"),
        ({"loss": {"perceptual_weight": 0.1, "metric_weights": "nowhere"}}, "nowhere"),
    ],
)
def test_what_does_not_fit_is_refused(checkpoint, groups, message):
    with pytest.raises(InputError, match=message):
        DecoderObjective(from_groups(DecoderExperimentConfig, values(checkpoint, **groups)))


def test_a_damaged_index_is_refused(trained, tmp_path):
    shutil.copytree(trained[0] / "clips/train", tmp_path / "clips")
    (tmp_path / "clips/restored.json").write_text("{")
    with pytest.raises(InputError, match="make the clips again"):
        RestoredSource(str(tmp_path / "clips"))
