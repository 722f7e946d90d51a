"""Prepared latents: what the loader gives is the VAE's posterior of the same clips."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from networks import abstract_component

from star_jax.checkpoints.directory import TOKENIZER_DIR, create_checkpoint, save_component
from star_jax.data.clips import cut_clip
from star_jax.data.config import DataConfig
from star_jax.data.loader import ClipLoader
from star_jax.data.prepare.latents import latent_encoder
from star_jax.data.prepare.write import PrepareConfig, prepare
from star_jax.data.sources import open_source
from star_jax.errors import InputError
from star_jax.models.clip.tokenizer import load_tokenizer, tokenize, write_byte_level_tokenizer
from star_jax.presets import get_preset


def weight(rng, shape):
    values = rng.standard_normal(shape).astype(np.float32)
    return values / np.sqrt(np.prod(shape[:-1])) if len(shape) > 1 else 1 + 0.1 * values


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny checkpoint with random weights, and its networks."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    config = get_preset("tiny")
    with create_checkpoint(folder, config, {"source": "random"}) as partial:
        networks, rng = {}, np.random.default_rng(3)
        for name in ("vae", "text_encoder"):
            graphdef, abstract = abstract_component(config, name)
            params = jax.tree.map(lambda leaf: weight(rng, leaf.shape), abstract)
            save_component(partial, name, params)
            networks[name] = graphdef, params
        write_byte_level_tokenizer(partial / TOKENIZER_DIR)
    return folder, networks


def prepare_config(output, **changes):
    sizes = {"num_frames": 5, "frame_interval": 1, "height": 32, "width": 48, "caption_dropout": 0.0}
    data = DataConfig("synthetic:3", **{**sizes, **changes})
    return PrepareConfig(data, str(output), num_degradations=2, validation_share=0.0)


def test_latents_of_both_clips_and_the_caption(model, tmp_path):
    folder, networks = model
    config = prepare_config(tmp_path / "latents")
    manifest = prepare(config, latent_encoder(config, folder))
    assert manifest["counts"]["train"] == 3 and manifest["shape"]["latents"]
    data = DataConfig(str(tmp_path / "latents"), num_frames=5, height=32, width=48, caption_dropout=0.0)
    batch = next(ClipLoader(data, batch_size=2))
    assert batch["gt_mean"].shape == batch["lq_logvar"].shape == (2, 5, 4, 6, 4)
    assert batch["gt_mean"].dtype == np.float16
    assert batch["text_embedding"].shape == (2, 77, 64)
    assert batch["text"] == ["moving shapes and textures"] * 2

    records = open_source("synthetic:3", height=32, width=48)
    number = int(batch["key"][0].split("-")[1])
    plain = prepare_config(tmp_path, flip_probability=0.0).data
    truth = cut_clip(records[number], plain, number).truth
    graphdef, params = networks["vae"]
    encode = jax.jit(lambda params, pixels: nnx.merge(graphdef, params).encode(pixels))
    posterior = encode(params, truth[None].astype(np.float32) / 127.5 - 1)
    np.testing.assert_allclose(batch["gt_mean"][0], posterior.mean[0], atol=5e-3, rtol=2e-3)
    np.testing.assert_allclose(batch["gt_logvar"][0], posterior.logvar[0], atol=5e-3, rtol=2e-3)
    assert np.abs(batch["gt_mean"][0].astype(float) - batch["lq_mean"][0]).mean() > 1e-3

    ids = tokenize(load_tokenizer(folder / TOKENIZER_DIR), [batch["text"][0]])
    graphdef, params = networks["text_encoder"]
    expected = jax.jit(lambda params, ids: nnx.merge(graphdef, params)(ids))(params, ids)[0]
    np.testing.assert_allclose(batch["text_embedding"][0], expected, atol=5e-3, rtol=2e-3)


def test_latents_of_two_checkpoints_are_not_mixed(model, tmp_path):
    config = prepare_config(tmp_path)
    encoder = latent_encoder(config, model[0])
    prepare(config, encoder)
    assert latent_encoder(config, model[0]).weights_sha256 == encoder.weights_sha256
    with pytest.raises(InputError, match=r"begun with other settings \(weights_sha256\)"):
        prepare(config, dataclasses.replace(encoder, weights_sha256="0"))


def test_sizes_the_vae_does_not_take_are_refused(model, tmp_path):
    with pytest.raises(InputError, match="36x48; give multiples of 8"):
        latent_encoder(prepare_config(tmp_path, height=36), model[0])
