"""One step: what it changes, what it leaves, clipping, averages, accumulation, schedules."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_training import FRAMES, SIZE, ToyObjective, toy_config

from star_jax.checkpoints.trees import flatten
from star_jax.errors import InputError
from star_jax.models.architectures import build_model
from star_jax.parallel.mesh import MeshConfig, make_mesh
from star_jax.parallel.weights import param_shardings
from star_jax.presets import get_preset
from star_jax.train.config import OptimizerConfig
from star_jax.train.optimizer import make_optimizer
from star_jax.train.overview import overview
from star_jax.train.state import abstract_state, merge_params, new_state, split_trainable
from star_jax.train.step import jit_train_step, make_train_step, with_shardings


@functools.cache
def run_steps(count=1, *, optimizer=None, **train):
    """Steps on one device; returns (weights before, state, frozen before, frozen, metrics)."""
    config = toy_config(optimizer=optimizer, **train)
    objective, mesh = ToyObjective(), make_mesh(MeshConfig(), jax.devices()[:1])
    optimizer = make_optimizer(config.optimizer, config.train.num_steps)
    trees = [with_shardings(tree, param_shardings(mesh, tree)) for tree in objective.abstract_params()]
    params, frozen = objective.load(*trees)
    before, frozen_before = jax.device_get(params), jax.device_get(frozen)
    state = new_state(params, optimizer, ema_decay=config.train.ema_decay)
    abstract = abstract_state(trees[0], optimizer, ema_decay=config.train.ema_decay)
    step = jit_train_step(make_train_step(objective, optimizer, config.train), mesh, abstract)
    random = np.random.default_rng(1)
    batch = {
        "gt": random.integers(0, 256, (config.train.batch_size, FRAMES, SIZE, SIZE, 3)).astype(np.float32),
        "index": np.arange(config.train.batch_size, dtype=np.int32),
    }
    with jax.set_mesh(mesh):
        for _ in range(count):
            state, metrics = step(state, frozen, batch, jax.random.key(0))
    return before, jax.device_get(state), frozen_before, jax.device_get(frozen), jax.device_get(metrics)


def test_trained_weights_change_and_frozen_ones_do_not():
    before, state, frozen_before, frozen, metrics = run_steps(2)
    for path, leaf in flatten(state.params).items():
        assert (leaf != flatten(before)[path]).any(), path
    for path, leaf in flatten(frozen).items():
        np.testing.assert_array_equal(leaf, flatten(frozen_before)[path])
    assert state.step == 2 and metrics["learning_rate"] == np.float32(1e-2)
    assert set(metrics) == {"loss", "loss_velocity", "grad_norm", "learning_rate"}


def test_average_follows_the_weights():
    before, one, *_ = run_steps()
    for path, leaf in flatten(one.ema_params).items():
        expected = 0.9 * flatten(before)[path] + 0.1 * flatten(one.params)[path]
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-7)
    assert run_steps(ema_decay=0.0)[1].ema_params is None


def test_clipping_covers_liem():
    """Adam's first moments after one step are 0.1 of the clipped gradient: the norm over all of it is clip_norm."""
    _, state, *_, metrics = run_steps(optimizer=OptimizerConfig(clip_norm=0.01))
    assert metrics["grad_norm"] > 0.01
    moments = state.opt_state[1][0].mu
    assert float(optax.global_norm(moments)) == pytest.approx(0.1 * 0.01, rel=1e-4)
    _, free, *_ = run_steps(optimizer=OptimizerConfig(clip_norm=None))
    scale = float(metrics["grad_norm"]) / 0.01
    for clipped, whole in zip(
        jax.tree.leaves(moments), jax.tree.leaves(free.opt_state[1][0].mu), strict=True
    ):
        np.testing.assert_allclose(clipped * scale, whole, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("pieces", [4])
def test_accumulated_gradients_equal_the_big_batch_s(pieces):
    _, whole, *_, metrics = run_steps(2)
    _, cut, *_, cut_metrics = run_steps(2, grad_accumulation=pieces)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(cut), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-6)
    for name, value in metrics.items():
        assert cut_metrics[name] == pytest.approx(value, rel=1e-5), name


def test_schedules():
    def rates(steps, **config):
        schedule = make_optimizer(OptimizerConfig(learning_rate=1.0, **config), 10).learning_rate
        return [float(schedule(step)) for step in steps]

    assert rates([0, 5, 9]) == [1.0, 1.0, 1.0]
    assert rates([0, 1, 2, 9], warmup_steps=2) == [0.0, 0.5, 1.0, 1.0]
    assert rates([0, 5, 10], schedule="linear") == pytest.approx([1.0, 0.5, 0.0])
    assert rates([0, 2, 6, 10], schedule="cosine", warmup_steps=2) == pytest.approx(
        [0.0, 1.0, 0.5, 0.0], abs=1e-6
    )


def test_groups_of_weights_have_their_own_schedules():
    changes = OptimizerConfig(learning_rate=1e-2, groups="*liem*:warmup_steps=5;unet/*:learning_rate=1.0")
    before, state, *_, metrics = run_steps(optimizer=changes)
    _, plain, *_ = run_steps()
    liem = "unet/blocks/0/liem1/kernel"
    np.testing.assert_array_equal(flatten(state.params)[liem], flatten(before)[liem])  # rises from 0
    for path in ("controlnet/kernel", "controlnet/bias"):
        np.testing.assert_array_equal(flatten(state.params)[path], flatten(plain.params)[path])
    assert metrics["learning_rate"] == np.float32(1e-2)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("*liem*", "write PATTERN:key=value"),
        ("*liem*:rate=1", "with keys of learning_rate, schedule, warmup_steps, weight_decay"),
        ("*liem*:warmup_steps=soon", "invalid literal"),
        ("*liem*:schedule=steps", "choose one of constant, cosine, linear"),
    ],
)
def test_groups_that_are_written_wrongly_are_named(groups, message):
    with pytest.raises(InputError, match=message):
        OptimizerConfig(groups=groups)


def test_trainable_weights_of_the_full_network():
    model = build_model(get_preset("i2vgen-xl"))
    params = model.abstract_params(model.network_components)
    trainable, frozen = split_trainable(params, model.is_trainable)
    sizes = {path: int(np.prod(leaf.shape)) for path, leaf in flatten(trainable).items()}
    controlnet = sum(size for path, size in sizes.items() if path.startswith("controlnet/"))
    assert round(controlnet / 1e6, 1) == 629.9
    assert sum(sizes.values()) - controlnet == 1636
    assert all("liem" in path for path in sizes if path.startswith("unet/"))
    merged = flatten(merge_params(trainable, frozen))
    assert {path: leaf.shape for path, leaf in merged.items()} == {
        path: leaf.shape for path, leaf in flatten(params).items()
    }


def test_the_predicate():
    is_trainable = build_model(get_preset("tiny")).is_trainable
    assert is_trainable("controlnet/conv_in/kernel")
    assert is_trainable("unet/transformer_in/block/liem2/proj/kernel")
    assert not is_trainable("unet/conv_in/kernel")
    assert is_trainable("unet/conv_in/kernel", train_base=True)
    assert not is_trainable("vae/decoder/conv_in/kernel", train_base=True)


def test_the_predicate_decides_about_every_weight_of_a_model():
    model = build_model(get_preset("tiny"))
    trained = [path for path in flatten(model.abstract_params()) if model.is_trainable(path)]
    assert {path.split("/")[0] for path in trained} == {"controlnet", "unet"}
    with pytest.raises(
        ValueError, match=r"upscaler/conv/kernel belongs to no component; .* has unet, controlnet"
    ):
        model.is_trainable("upscaler/conv/kernel")


def test_the_overview_counts_by_component():
    trainable, frozen = ToyObjective().abstract_params()
    rows = [line.split() for line in overview(trainable, frozen).splitlines()]
    assert rows == [
        ["component", "trained", "weights", "frozen", "weights"],
        ["controlnet", "16,512", "0"],
        ["unet", "2", "768"],
        ["total", "16,514", "768"],
    ]
    with pytest.raises(ValueError, match="both trained and frozen; the first is unet/out"):
        overview({"unet": {"out": frozen["unet"]["out"]}}, frozen)


def test_state_has_no_memory_while_it_is_abstract():
    config = toy_config()
    optimizer = make_optimizer(config.optimizer, 6)
    state = abstract_state(ToyObjective().abstract_params()[0], optimizer, ema_decay=0.9)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(state))
    assert state.step.dtype == jnp.int32
    assert dataclasses.asdict(config)["train"]["ema_decay"] == 0.9
