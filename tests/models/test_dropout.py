"""Dropout: its masks are JAX's own, and every layer of a network has a key of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import abstract_component

from star_jax.models.dropout import draw_masks, dropout
from star_jax.models.i2vgenxl.unet import level_dropout_keys
from star_jax.ops.platform import targeting
from star_jax.presets import PRESETS


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_masks_are_those_of_jax(rate):
    x, keys = jnp.full((2, 5, 80), 2.0), jax.random.split(jax.random.key(1), 3)
    for mask, key in zip(draw_masks(keys, x.shape, rate), keys, strict=True):
        kept = jax.random.bernoulli(key, 1 - rate, x.shape)
        np.testing.assert_array_equal(mask, kept)
        np.testing.assert_array_equal(dropout(x, rate, mask), jnp.where(kept, x / (1 - rate), 0))


def test_inference_drops_nothing():
    x = jnp.ones((2, 3))
    assert draw_masks(None, x.shape, 0.1) is None
    assert dropout(x, 0.1, None) is x


def test_keys_are_folded_one_position_after_the_other():
    key, fold = jax.random.key(2), jax.random.fold_in
    keys = level_dropout_keys(key, (0, 100), 3)
    assert keys.shape == (2, 3, 4)
    layer = fold(fold(key, 100), 2)
    expected = [fold(layer, 0), *(fold(fold(layer, 1), i) for i in (1, 2, 3))]
    np.testing.assert_array_equal(jax.random.key_data(keys[1, 2]), [jax.random.key_data(k) for k in expected])
    assert len(np.unique(jax.random.key_data(keys).reshape(-1, 2), axis=0)) == keys.size
    assert level_dropout_keys(None, (0, 100), 3) is None


def test_all_keys_of_a_network_are_folded_by_few_operations():
    program = jax.make_jaxpr(lambda key: level_dropout_keys(key, range(5), 3))(jax.random.key(0))
    assert str(program).count("random_fold_in") == 5


def test_dropout_changes_training_but_not_inference():
    config = PRESETS["tiny"]
    graphdef, abstract = abstract_component(config, "controlnet")
    rng = np.random.default_rng(4)
    params = jax.tree.map(lambda leaf: 0.1 * rng.standard_normal(leaf.shape).astype(np.float32), abstract)
    x = rng.standard_normal((1, 2, 18, 8, 4)).astype(np.float32)
    context = np.zeros((1, 1, config.unet.cross_attention_dim), np.float32)

    @jax.jit
    def middle(key):
        return nnx.merge(graphdef, params)(x, np.array([5]), context, x, dropout_key=key)[-1]

    first, again, other = (middle(jax.random.key(seed)) for seed in (0, 0, 1))
    assert jnp.array_equal(first, again)
    assert not jnp.allclose(first, other)


def test_dropout_for_a_tpu_drops_the_same():
    x, keys = jnp.ones((2, 3, 8)), jax.random.split(jax.random.key(0), 2)

    def gradient(x):
        mask = draw_masks(keys, x.shape, 0.5)[1]
        return jax.grad(lambda x: (dropout(x, 0.5, mask) ** 2).sum())(x)

    expected = gradient(x)
    with targeting("tpu"):
        assert "optimization_barrier" in str(jax.make_jaxpr(gradient)(x))
        np.testing.assert_array_equal(gradient(x), expected)
    assert 0 < np.count_nonzero(expected) < x.size
