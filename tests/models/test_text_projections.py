"""The text's keys and values, projected once per clip."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_level import ONE_LEVEL
from random_trees import random_tree

from star_jax.models.architectures import build_model

# Attention on the level, too: 1 + 1 + 2 sites (down, middle, up) in the UNet, 1 + 1 in the ControlNet.
CONFIG = replace(ONE_LEVEL, unet=replace(ONE_LEVEL.unet, attention_levels=(True,)))
NUM_SITES = 6


@pytest.fixture(scope="module")
def star():
    """(the model, weights of UNet and ControlNet)."""
    model = build_model(CONFIG)
    return model, {name: random_tree(model.abstract(name)) for name in model.network_components}


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    sample, hint = (jnp.asarray(rng.standard_normal((2, 2, 4, 4, 4)), jnp.float32) for _ in range(2))
    context = jnp.asarray(rng.standard_normal((2, 3, CONFIG.unet.cross_attention_dim)), jnp.float32)
    return sample, jnp.array([500, 20]), context, hint


def test_projections_stand_for_the_embeddings(star, inputs):
    model, params = star
    sample, timesteps, context, hint = inputs
    text = jax.jit(model.condition)(params, context)
    velocity = jax.jit(model.velocity)
    expected = velocity(params, sample, timesteps, context, hint)
    np.testing.assert_allclose(
        velocity(params, sample, timesteps, text, hint), expected, rtol=1e-5, atol=1e-6
    )
    other = jax.tree.map(lambda x: x[::-1], text)
    assert not np.allclose(velocity(params, sample, timesteps, other, hint), expected, atol=1e-3)


def test_a_step_projects_no_text(star, inputs):
    model, params = star
    sample, timesteps, context, hint = inputs
    text = jax.eval_shape(lambda context: model.condition(params, context), context)

    def products(text):
        jaxpr = jax.make_jaxpr(lambda text: model.velocity(params, sample, timesteps, text, hint))(text)
        return str(jaxpr).count("dot_general[")

    assert len(jax.tree.leaves(text)) == 2 * NUM_SITES
    assert products(context) - products(text) == 2 * NUM_SITES
