"""The whole loss on a network of one level."""

import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fewer_levels import FEWER_LEVELS
from flax import nnx
from networks import abstract_component
from one_level import ONE_LEVEL
from small_objective import (
    FRAMES,
    HEIGHT,
    KEY,
    WIDTH,
    make_objective,
    two_clips,
    weights,
    with_stub_network,
)

from star_jax.checkpoints.trees import flatten
from star_jax.data.config import DataConfig
from star_jax.diffusion.losses import RELEASED_LOSS, LossConfig
from star_jax.diffusion.noise import frame_noise
from star_jax.errors import InputError
from star_jax.init.random_checkpoint import random_checkpoint
from star_jax.presets import PRESETS
from star_jax.train.config import ModelConfig, TrainConfig
from star_jax.train.star.objective import StarObjective


@pytest.fixture(scope="module")
def batch():
    return two_clips()


@cache
def both_terms():
    """Program (trainable, frozen, batch, timesteps, weights of the two terms) -> (value, gradient)."""
    objective = make_objective()

    def value(trainable, frozen, batch, timesteps, term_weights):
        terms = objective.loss_terms(trainable, frozen, batch, KEY, timesteps)
        return sum(w * t.mean() for w, t in zip(term_weights, terms.values(), strict=True))

    return jax.jit(jax.value_and_grad(value))


def norm(tree) -> float:
    return float(jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree))))


@pytest.mark.parametrize("term_weights", [(1.0, 0.0), (0.0, 1.0)])
def test_gradient_of_each_term_agrees_with_finite_differences(batch, term_weights):
    trainable, frozen = weights()
    timesteps = np.array([200, 700])
    _, gradient = both_terms()(trainable, frozen, batch, timesteps, term_weights)
    length = norm(gradient)
    assert length > 0
    step = 2e-3 / length
    ends = []
    for sign in (1, -1):
        moved = jax.tree.map(lambda w, g, sign=sign: w + sign * step * g, trainable, gradient)
        ends.append(float(both_terms()(moved, frozen, batch, timesteps, term_weights)[0]))
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(length**2, rel=0.03)


def test_the_released_scripts_frequency_loss_reaches_no_weight(batch):
    objective, (trainable, frozen) = make_objective(RELEASED_LOSS), weights()

    def frequency_term(trainable):
        return objective.loss_terms(trainable, frozen, batch, KEY, np.array([200, 700]))["loss_df"].mean()

    # The gradient does not depend on the network, so compiling removes it.
    gradient = jax.jit(jax.grad(frequency_term))(trainable)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradient))


def test_loss_and_gradient_are_finite_at_both_ends_of_the_schedule(batch):
    value, gradient = both_terms()(*weights(), batch, np.array([0, 999]), (1.0, 1.0))
    assert np.isfinite(float(value)) and np.isfinite(norm(gradient))


def test_a_batch_is_the_mean_of_its_samples(batch):
    """Timesteps, noise and all else are drawn by the sample's position in the data."""
    objective, (trainable, frozen) = with_stub_network(make_objective(LossConfig(frames=3))), weights()
    timesteps, loss_terms = objective.draw_timesteps(batch, KEY), jax.jit(objective.loss_terms)
    together = loss_terms(trainable, frozen, batch, KEY, timesteps)
    for i in range(2):
        alone = {name: array[i : i + 1] for name, array in batch.items()}
        assert objective.draw_timesteps(alone, KEY)[0] == timesteps[i]
        for name, values in loss_terms(trainable, frozen, alone, KEY, timesteps[i : i + 1]).items():
            np.testing.assert_allclose(values[0], together[name][i], rtol=1e-4)


def test_loss_against_plain_numpy(batch):
    """Encoding, target, x0 estimate, decoding in groups and weighting, put together by hand."""
    config = LossConfig(frequency="not_separated", beta=0.5)
    objective, (trainable, frozen) = with_stub_network(make_objective(config)), weights()
    timesteps = np.array([100, 800])
    terms = jax.jit(objective.loss_terms)(trainable, frozen, batch, KEY, timesteps)
    params = objective.cast_params(trainable, frozen)
    keys = jax.vmap(lambda index: jax.random.fold_in(KEY, index))(batch["index"])
    x0, hint = jax.jit(objective.encode)(params, batch, keys)
    assert x0.shape == hint.shape == (2, FRAMES, HEIGHT // 2, WIDTH // 2, 4) and (x0 != hint).any()
    alpha, sigma = (level[timesteps].reshape(2, 1, 1, 1, 1) for level in levels(objective))
    noise = sampled_noise(keys, x0.shape)
    x_t = alpha * np.asarray(x0) + sigma * noise
    target = alpha * noise - sigma * np.asarray(x0)
    np.testing.assert_allclose(
        terms["loss_velocity"], np.square(0.3 * x_t - target).mean((1, 2, 3, 4)), rtol=1e-4
    )
    x0_hat = jnp.asarray(alpha * x_t - sigma * 0.3 * x_t, jnp.float32)
    decoded = jax.jit(objective.decode_clip)(params, x0_hat)
    spectra = [np.fft.rfft2(clip, axes=(2, 3), norm="ortho") for clip in (decoded, batch["gt"] / 127.5 - 1.0)]
    difference = spectra[0] - spectra[1]
    # Four frames in groups of three: the shared ones are decoded twice, which only decode_clip's mean sees.
    distance = 0.5 * (np.abs(difference.real) + np.abs(difference.imag)).mean((1, 2, 3, 4))
    expected = 0.5 * (1 - timesteps / 999) * distance
    np.testing.assert_allclose(terms["loss_df"], expected, rtol=0.05)


def levels(objective):
    return objective.schedule.alphas, objective.schedule.sigmas


def sampled_noise(keys, shape):
    return np.concatenate([frame_noise(key, "diffusion", (1, *shape[1:])) for key in keys])


def test_prepared_latents_stand_for_their_clips(batch, tmp_path):
    """Moments of the same clips give the same latents, and a loss against what the VAE decodes of them."""
    manifest = {"shape": {"latents": True, "text_shape": [3, 16], "latent_channels": 4}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    data = DataConfig(str(tmp_path), num_frames=FRAMES, height=HEIGHT, width=WIDTH)
    settings = TrainConfig(num_steps=1, batch_size=2, remat="none")
    prepared = with_stub_network(StarObjective(ModelConfig("one-level"), LossConfig(), data, settings))
    clips, (trainable, frozen) = make_objective(), weights()
    params = clips.cast_params(trainable, frozen)
    host = {
        "text": ["a horse", ""],
        "index": batch["index"],
        "text_embedding": np.ones((2, 3, 16), np.float16),
    }
    for name in ("gt", "lq"):
        posterior = clips.posterior(params, batch[name])
        host[f"{name}_mean"] = np.asarray(posterior.mean, np.float16)
        host[f"{name}_logvar"] = np.asarray(posterior.logvar, np.float16)
    # Of a text encoder, not run here.
    prepared.batches.__dict__["_empty_prompt"] = np.full((3, 16), 2, np.float16)
    latents = prepared.prepare_batch(host)
    assert {n: (x.shape, x.dtype) for n, x in latents.items()} == {
        n: (x.shape, x.dtype) for n, x in prepared.abstract_batch(2).items()
    }
    assert prepared.context(params, latents)[:, 0, 0].tolist() == [1, 2]
    keys = jax.vmap(lambda index: jax.random.fold_in(KEY, index))(batch["index"])
    encoded = (jax.jit(clips.encode)(params, batch, keys), prepared.encode(params, latents, keys))
    for theirs, ours in zip(*encoded, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)
    terms = jax.jit(prepared.loss_terms)(trainable, frozen, latents, KEY, np.array([10, 500]))
    assert (np.asarray(terms["loss_df"]) > 0).all()


def test_decoding_in_groups_is_the_decoder_on_each_group(batch):
    objective, (trainable, frozen) = make_objective(LossConfig(decode_group=2)), weights()
    params = objective.cast_params(trainable, frozen)
    latents = jnp.asarray(np.random.default_rng(1).standard_normal((1, 4, 6, 4, 4)), jnp.float32)
    graph = abstract_component(ONE_LEVEL, "vae")[0]
    decode = jax.jit(lambda vae, x: nnx.merge(graph, vae).decode(x / ONE_LEVEL.vae.scaling_factor))
    expected = np.concatenate([decode(params["vae"], latents[:, i : i + 2]) for i in (0, 2)], axis=1)
    clip = jax.jit(objective.decode_clip)(params, latents)
    np.testing.assert_allclose(clip, expected, rtol=1e-4, atol=1e-5)
    whole = decode(params["vae"], latents)
    assert np.abs(whole - expected).max() > 1e-3  # the decoder does see its group


def test_metrics_add_up_and_dropout_follows_the_key(batch):
    objective, (trainable, frozen) = with_stub_network(make_objective()), weights()
    program = jax.jit(objective.loss)
    loss, metrics = program(trainable, frozen, batch, KEY)
    assert float(loss) == pytest.approx(sum(float(value) for value in metrics.values()))
    assert metrics.keys() == {"loss_velocity", "loss_df"} and float(metrics["loss_df"]) > 0
    assert float(program(trainable, frozen, batch, KEY)[0]) == float(loss)

    @jax.jit
    def key_of(piece):
        keys = []
        objective.velocity = lambda params, x, *args, dropout_key: keys.append(dropout_key) or x
        objective.loss(trainable, frozen, piece, KEY)
        return jax.random.key_data(keys[0])  # nothing else is compiled

    # Dropout differs between the pieces of an accumulated batch, which share their key.
    keys = [key_of({name: array[i : i + 1] for name, array in batch.items()}) for i in range(2)]
    assert (keys[0] != keys[1]).any()


def test_timesteps_are_uniform_over_their_range():
    draws = {"index": jnp.arange(4000)}
    timesteps = np.asarray(make_objective().draw_timesteps(draws, KEY))
    assert timesteps.min() < 5 and timesteps.max() > 994
    counts = np.bincount(timesteps // 100, minlength=10)
    np.testing.assert_allclose(counts, 400, atol=80)
    narrow = make_objective(LossConfig(first_timestep=100, last_timestep=101))
    assert set(np.asarray(narrow.draw_timesteps(draws, KEY))) == {100, 101}


def test_what_is_trained():
    trainable, frozen = make_objective().abstract_params()
    assert {leaf.dtype for leaf in jax.tree.leaves(trainable)} == {jnp.dtype("float32")}
    paths = flatten(trainable)
    assert any(path.startswith("controlnet/conv_in") for path in paths)
    assert all("liem" in path for path in paths if not path.startswith("controlnet/"))
    assert not any(path.startswith("controlnet/") for path in flatten(frozen))
    half = make_objective(model=ModelConfig("one-level", dtype="bfloat16")).abstract_params()
    assert {leaf.dtype for leaf in jax.tree.leaves(half[0])} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(half[1])} == {jnp.dtype("bfloat16")}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("objective") / "one-level"
    random_checkpoint(directory, ONE_LEVEL)
    return str(directory)


def test_weights_come_from_the_checkpoint(checkpoint):
    objective = make_objective(checkpoint=checkpoint)
    trainable, frozen = objective.load(*objective.abstract_params())
    for loaded, abstract in zip((trainable, frozen), objective.abstract_params(), strict=True):
        assert {p: (x.shape, x.dtype) for p, x in flatten(loaded).items()} == {
            p: (x.shape, x.dtype) for p, x in flatten(abstract).items()
        }
    with pytest.raises(InputError, match=r"model\.checkpoint is None"):
        make_objective().load(*objective.abstract_params())


def test_an_ablation_without_liem_starts_from_a_checkpoint_with_it(checkpoint):
    model = ModelConfig("one-level", checkpoint=checkpoint, liem_spatial=False)
    objective = make_objective(model=model)
    trainable, _ = objective.load(*objective.abstract_params())
    gates = [path for path in flatten(trainable) if "liem" in path]
    assert gates and not any("/attentions/" in path for path in gates)


@pytest.mark.parametrize(("channels", "width"), [(16, 16), (4, 1024)])
def test_latents_of_another_model_are_refused(tmp_path, channels, width):
    shape = {"latents": True, "text_shape": [3, width], "latent_channels": channels}
    (tmp_path / "manifest.json").write_text(json.dumps({"shape": shape}))
    data = DataConfig(str(tmp_path), num_frames=FRAMES, height=HEIGHT, width=WIDTH)
    settings = TrainConfig(num_steps=1, batch_size=2)
    with pytest.raises(
        InputError, match=f"latents of {channels} channels and text embeddings of width {width}"
    ):
        StarObjective(ModelConfig("one-level"), LossConfig(), data, settings)


def test_validation_on_clips_of_a_training_on_latents_is_refused(tmp_path):
    shape = {"latents": True, "text_shape": [3, 16], "latent_channels": 4}
    (tmp_path / "manifest.json").write_text(json.dumps({"shape": shape}))

    def objective_of(source, validation_source):
        data = DataConfig(str(source), num_frames=FRAMES, height=HEIGHT, width=WIDTH)
        validation = {"validate_every_steps": 1, "validation_source": str(validation_source)}
        settings = TrainConfig(num_steps=1, batch_size=2, **validation)
        return StarObjective(ModelConfig("one-level"), LossConfig(), data, settings)

    with pytest.raises(
        InputError, match=r"data.source has latents, but train.validation_source synthetic:4 has clips"
    ):
        objective_of(tmp_path, "synthetic:4")
    with pytest.raises(InputError, match=r"no data source at .*elsewhere"):
        objective_of(tmp_path, tmp_path / "elsewhere")
    assert objective_of(tmp_path, tmp_path).batches.latents


def test_more_frames_than_the_clips_have():
    with pytest.raises(InputError, match=r"diffusion\.frames is 6, but clips have 2 frames"):
        make_objective(LossConfig(frames=6), num_frames=2)


@pytest.mark.parametrize(
    ("height", "width", "named"), [(720, 1280, None), (704, 1280, 720), (720, 1288, 1280)]
)
def test_full_size_networks_take_latents_of_2_mod_8(height, width, named):
    data = DataConfig("synthetic:4", height=height, width=width)
    arguments = (ModelConfig("tiny"), LossConfig(), data, TrainConfig(num_steps=1, batch_size=1))
    if named is None:
        assert StarObjective(*arguments).batches.latent_size == (90, 160)
    else:
        with pytest.raises(InputError, match=f"such as {named}"):
            StarObjective(*arguments)


def test_captions_become_tokens(tiny_checkpoint, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", FEWER_LEVELS)
    data = DataConfig("synthetic:4", num_frames=2, height=80, width=64)
    model = ModelConfig("tiny", checkpoint=str(tiny_checkpoint))
    objective = StarObjective(model, LossConfig(), data, TrainConfig(num_steps=1, batch_size=2))
    expected = objective.abstract_batch(2)
    clips = {name: np.zeros(expected[name].shape, np.uint8) for name in ("gt", "lq")}
    batch = objective.prepare_batch({**clips, "text": ["a horse", ""], "key": [], "index": np.array([0, 1])})
    assert {n: (x.shape, x.dtype) for n, x in batch.items()} == {
        n: (x.shape, x.dtype) for n, x in expected.items()
    }
    assert (batch["input_ids"][0] != batch["input_ids"][1]).any()
