"""Every rung of distillation resumes exactly, computes the same on several devices, and leaves what it should."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distilled_toy import PRESET, RUNGS, experiment, run
from saved_state import saved_state
from simulated_devices import finish, start

from star_jax.checkpoints.directory import read_config
from star_jax.diffusion.guidance import combine_branches
from star_jax.diffusion.noise import noise_key
from star_jax.diffusion.process import diffuse
from star_jax.errors import InputError
from star_jax.inference.pipeline import StarPipeline
from star_jax.inference.settings import UpscaleSettings
from star_jax.init.random_checkpoint import random_checkpoint
from star_jax.launch.experiment import run_config_file
from star_jax.train.distill.config import OneStepConfig
from star_jax.train.distill.dual_stream import FAKE, HEADS
from star_jax.train.distill.teacher import TEACHER
from star_jax.train.experiments import make_objective, read_experiment_config
from star_jax.train.sample_draws import sample_keys, sample_noise
from star_jax.train.star.assemble import assemble

LEARNED = ("step", "loss", "grad_norm", "learning_rate")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("taught") / "checkpoint"
    random_checkpoint(directory, PRESET)
    return directory


@pytest.fixture(scope="module")
def runs(tmp_path_factory, checkpoint):
    """Work directories of four steps of each rung on one device, checkpointed at every one."""
    folder = tmp_path_factory.mktemp("runs")
    for rung in RUNGS:
        run(rung, checkpoint, folder / rung)
    return folder


def state_of(folder, rung, checkpoint, step):
    config = experiment(rung, checkpoint)
    state = saved_state(folder / rung, step, make_objective(config), config.optimizer, config.train)
    return jax.device_get(state)


def metrics(folder, rung) -> list[dict]:
    lines = [json.loads(line) for line in (folder / rung / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name.startswith(LEARNED)} for line in lines]


@pytest.mark.parametrize("rung", RUNGS)
def test_a_run_that_was_interrupted_ends_the_same(rung, runs, checkpoint, tmp_path):
    shutil.copytree(runs / rung, tmp_path / rung)
    for step in (3, 4):
        shutil.rmtree(tmp_path / rung / "checkpoints" / str(step))
    run(rung, checkpoint, tmp_path / rung)
    found, expected = (state_of(folder, rung, checkpoint, 4) for folder in (tmp_path, runs))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert metrics(tmp_path, rung) == metrics(runs, rung)


def test_four_devices_equal_one(runs, checkpoint, tmp_path):
    finish([start("distilled_toy.py", [tmp_path, checkpoint], 4, JAX_DISABLE_MOST_OPTIMIZATIONS="1")])
    for rung in RUNGS:
        for found, expected in zip(metrics(tmp_path, rung), metrics(runs, rung)[:2], strict=True):
            assert found == pytest.approx(expected, rel=1e-5), rung
        one, other = (moments(state_of(folder, rung, checkpoint, 1)) for folder in (tmp_path, runs))
        # As a whole: where terms of the heads' hinge cancel, single numbers are small beside what they are made of.
        assert norm([a - b for a, b in zip(one, other, strict=True)]) < 1e-5 * norm(other), rung


def norm(arrays) -> float:
    return float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays)))


def moments(state) -> list[np.ndarray]:
    """Adam's first moments: the gradients of the first step, scaled."""
    leaves = jax.tree_util.tree_leaves_with_path(state.opt_state)
    return [leaf for path, leaf in leaves if ".mu" in jax.tree_util.keystr(path)]


def parts_of(state, part):
    """Weights, average and optimizer of a part of dual_stream."""
    names = {"student": ["network"], FAKE: [FAKE], HEADS: [HEADS]}[part]
    trees = [{name: tree[name] for name in names} for tree in (state.params, state.ema_params)]
    return [*jax.tree.leaves(trees), *jax.tree.leaves(state.opt_state.inner_states[part])]


@pytest.mark.parametrize(("before", "active"), [(1, {"student"}), (2, {FAKE, HEADS})])
def test_idle_parts_stay_bit_for_bit(before, active, runs, checkpoint):
    old, new = (state_of(runs, "dual_stream", checkpoint, step) for step in (before, before + 1))
    for part in ("student", FAKE, HEADS):
        same = [np.array_equal(a, b) for a, b in zip(parts_of(old, part), parts_of(new, part), strict=True)]
        assert all(same) == (part not in active), part


def test_metrics_are_those_of_the_turn(runs):
    auxiliary, student = metrics(runs, "dual_stream")[:2]
    assert {"loss_fake", "loss_heads"} <= auxiliary.keys() and "loss_matching" not in auxiliary
    assert {"loss_matching", "loss_adversarial", "loss_feature", "loss_latent"} <= student.keys()
    assert "loss_fake" not in student


@pytest.fixture(scope="module")
def dual(checkpoint):
    """(objective, trained weights away from their start, frozen ones, batch)."""
    return loaded(experiment("dual_stream", checkpoint))


def loaded(config):
    objective = make_objective(config)
    placement = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    trees = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placement),
        objective.abstract_params(),
    )
    trainable, frozen = objective.load(*trees)
    random = np.random.default_rng(0)
    trainable = jax.tree.map(lambda x: x + 0.1 * random.standard_normal(x.shape).astype(x.dtype), trainable)
    shapes = objective.abstract_batch(2)
    clips = {name: random.integers(0, 256, shapes[name].shape, np.uint8) for name in ("gt", "lq")}
    batch = objective.prepare_batch({**clips, "index": [3, 8], "text": ["a", "b"]})
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in shapes.items()
    }
    return objective, trainable, frozen, batch


REACHED = {
    ("auxiliary", "loss_fake"): {FAKE},
    ("auxiliary", "loss_heads"): {HEADS},
    ("student", "loss_matching"): {"network"},
    ("student", "loss_adversarial"): {"network"},
    ("student", "loss_feature"): {"network"},
    ("student", "loss_latent"): {"network"},
}


@pytest.mark.parametrize("kind", ["auxiliary", "student"])
def test_each_part_learns_from_its_own_loss_alone(kind, dual):
    """Heads send nothing into the networks that they look at, nor do the student's losses."""
    objective, trainable, frozen, batch = dual
    names = [name for turn, name in REACHED if turn == kind]

    def losses(trainable):
        terms = objective.loss_of_turn(kind, trainable, frozen, batch, noise_key(0))[1]
        assert set(terms) == set(names)
        return jnp.stack([terms[name] for name in names])

    gradients = jax.jit(jax.jacrev(losses))(trainable)
    for i, name in enumerate(names):
        of_loss = jax.tree.map(lambda g, i=i: bool((g[i] != 0).any()), gradients)
        reached = {component for component, tree in of_loss.items() if any(jax.tree.leaves(tree))}
        assert reached == REACHED[kind, name], name


def test_guidance_matches_the_teacher_s_guided_velocity(checkpoint):
    objective, trainable, frozen, batch = loaded(experiment("guidance", checkpoint))
    model, key, timesteps = objective.model, noise_key(1), jnp.array([300, 700])
    terms = objective.loss_terms(trainable, frozen, batch, key, timesteps)

    student, teacher = objective.cast_params(trainable, frozen), {**frozen, **frozen[TEACHER]}
    keys = sample_keys(key, batch)
    x0, hint = objective.encode(student, batch, keys)
    x_t = diffuse(model.schedule, x0, sample_noise(keys, "diffusion", x0.shape), timesteps)
    text, negative = (model.encode_text(frozen, batch[name]) for name in ("input_ids", "negative_ids"))
    assert not np.array_equal(text, negative)
    branches = [model.velocity(teacher, x_t, timesteps, context, hint) for context in (text, negative)]
    target = combine_branches(*branches, 3.0, model.config.diffusion.guidance_rescale)
    predicted = model.velocity(student, x_t, timesteps, text, hint)
    expected = jnp.square(predicted - target).mean((1, 2, 3, 4))
    np.testing.assert_allclose(terms["loss_guidance"], expected, rtol=1e-5)


@pytest.mark.parametrize("rung", ["guidance", "one_step", "dual_stream"])
def test_the_checkpoint_is_sampled_as_the_student_was_trained(rung, runs, checkpoint, tmp_path):
    assemble(runs / rung, tmp_path / "out")
    config = read_config(tmp_path / "out")
    assert config.sampling.guidance_scale == 1.0
    if rung == "guidance":
        assert (
            config.sampling.num_inference_steps == 2 and config.diffusion == read_config(checkpoint).diffusion
        )
        return
    assert config.sampling.num_inference_steps == 1
    assert (config.diffusion.start_timestep, config.diffusion.start) == (500, "hint")
    pipeline, objective = (
        StarPipeline.from_pretrained(tmp_path / "out"),
        make_objective(read_experiment_config(runs / rung)),
    )
    settings = UpscaleSettings(num_inference_steps=1, guidance_scale=1.0, prompt="cat", positive_prompt="")
    contexts = pipeline.denoiser.encode_prompts(settings)
    hint = jax.random.normal(jax.random.key(0), (1, 3, 4, 4, 3))
    found = pipeline.denoiser.sample(hint, contexts, settings, noise_key(0))
    expected = objective.one_step(pipeline.params, contexts[0], hint, None)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_noise_is_added_where_the_start_says_so(checkpoint):
    config = experiment("one_step", checkpoint)
    config = dataclasses.replace(config, distill=OneStepConfig(timestep=500))
    objective, trainable, frozen, batch = loaded(config)
    params, keys = objective.cast_params(trainable, frozen), sample_keys(noise_key(0), batch)
    text, hint = objective.context(params, batch), jnp.ones((2, 3, 4, 4, 3))
    out = objective.one_step(params, text, hint, keys)
    alpha, sigma = (getattr(objective.schedule, name)[500] for name in ("alphas", "sigmas"))
    x = sigma * (alpha * hint + sigma * sample_noise(keys, "start", hint.shape))  # as the sampler does
    v = objective.model.velocity(params, x, jnp.full(2, 500), text, hint)
    np.testing.assert_allclose(out, alpha * x - sigma * v, rtol=1e-4, atol=1e-5)


def test_mistakes_are_named(checkpoint, tmp_path):
    with pytest.raises(InputError, match=r"rung is 'two_steps'; write configs/distill\.py:RUNG"):
        run_config_file("configs/distill.py:two_steps")
    with pytest.raises(InputError, match=r"distill.start is 'zero'; choose one of noise, hint"):
        OneStepConfig(start="zero")
    with pytest.raises(InputError, match=r"distill.rung is 'guidance' in a configuration of rung 'one_step'"):
        OneStepConfig("guidance")
    config = experiment("one_step", checkpoint)
    silent = OneStepConfig(latent_weight=0.0)
    with pytest.raises(InputError, match="all weights in distill are 0"):
        make_objective(dataclasses.replace(config, diffusion=RUNGS["guidance"][2], distill=silent))
    other = tmp_path / "other"
    random_checkpoint(other, PRESET, seed=1)
    model = {"lora_rank": 2}
    config = experiment("guidance", checkpoint, model=model)
    changed = dataclasses.replace(config.distill, teacher=str(other))
    with pytest.raises(InputError, match=r"differs from model.checkpoint .* in network/.* both share"):
        loaded(dataclasses.replace(config, distill=changed))


@pytest.mark.parametrize("rung", ["guidance", "one_step", "one_step_pixels"])
def test_the_configs_can_be_read(rung):
    assert run_config_file(f"configs/distill.py:{rung}").distill.rung in rung


def test_the_largest_rung_fits_the_full_network():
    """Shapes only: nothing is allocated."""
    config = run_config_file("configs/distill.py:dual_stream")
    train = dataclasses.replace(config.train, validate_every_steps=0)
    model = dataclasses.replace(config.model, checkpoint=None)
    objective = make_objective(dataclasses.replace(config, model=model, train=train))
    trainable, frozen = objective.abstract_params()
    assert set(trainable) == {"unet", "controlnet", FAKE, HEADS} and TEACHER in frozen
    # Of the middle and two levels of the decoder, of both networks.
    kernels = [head["conv_in"]["kernel"].shape[2] for head in trainable[HEADS]["heads"].values()]
    assert kernels == [1280, 1280, 640] * 2
