"""A fresh network hands the low-resolution latents on, whatever their brightness, contrast and the noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dwarf import dwarf

from star_jax.init.component import fresh_component
from star_jax.models.architectures import build_model

SIZES = dwarf(4, 16, 1, (4, 4))


@pytest.fixture(scope="module")
def guess():
    """Low-resolution latents [1, 3, 10, 8, 4] -> minus the velocity at the noisy end."""
    model = build_model(SIZES)
    params = {name: fresh_component(model, name, 0) for name in model.network_components}

    @jax.jit
    def guess(latents, noise):
        context, timesteps = jnp.zeros((1, 1, 4)), jnp.full((1,), 999)
        arguments = (params, noise, timesteps, context, latents)
        return -model.velocity(*arguments)

    return guess


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (1.5, 0.5), (-1.0, 0.1)])
def test_it_hands_the_latents_on(guess, mean, deviation):
    rng = np.random.default_rng(0)
    latents = (mean + deviation * rng.standard_normal((1, 3, 10, 8, 4))).astype(np.float32)
    noise = rng.standard_normal(latents.shape).astype(np.float32)
    np.testing.assert_allclose(guess(latents, noise), latents, atol=0.15)
    np.testing.assert_allclose(guess(latents, noise), guess(latents, -noise), atol=1e-4)
