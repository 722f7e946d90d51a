"""Distribution matching in one dimension, where everything is known: Gaussians stay Gaussians under noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax.config import DiffusionConfig
from star_jax.diffusion.process import diffuse
from star_jax.diffusion.schedule import NoiseSchedule
from star_jax.train.distill.distribution_matching import (
    adversarial_loss,
    critic_loss,
    feature_loss,
    kl_weight,
    matching_loss,
    normalised_weight,
)

SCHEDULE = NoiseSchedule.from_config(DiffusionConfig())
STUDENT, TEACHER = (0.7, 0.4), (-0.2, 1.1)  # mean, deviation


def levels(timestep):
    """alpha and sigma as the process has them, float64 numbers of float32 values."""
    return float(np.float32(SCHEDULE.alphas[timestep])), float(np.float32(SCHEDULE.sigmas[timestep]))


def denoised(x_t, alpha, sigma, mean, deviation):
    """E[x0 | x_t] of a Gaussian prior."""
    gain = alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)
    return mean + gain * (x_t - alpha * mean)


def divergence(student, alpha, sigma):
    """KL of the diffused student from the diffused teacher, in closed form."""
    (m, s), (mu, tau) = student, TEACHER
    mean, var = alpha * (m - mu), alpha**2 * s**2 + sigma**2
    other = alpha**2 * tau**2 + sigma**2
    return 0.5 * (var / other + mean**2 / other - 1 + jnp.log(other / var))


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("timestep", [100, 400, 800])
def test_the_gradient_is_that_of_the_divergence(timestep, float64):
    """Expectations over the student's draw and the noise are exact, by Gauss-Hermite quadrature."""
    alpha, sigma = levels(timestep)
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    weights = weights / weights.sum()
    z, noise = (x.ravel()[:, None, None, None, None] for x in np.meshgrid(nodes, nodes, indexing="ij"))
    probability = np.outer(weights, weights).ravel()
    timesteps = jnp.full(len(z), timestep)

    def loss(student):
        mean, deviation = student
        x0_hat = mean + deviation * jnp.asarray(z)
        x_t = diffuse(SCHEDULE, x0_hat, jnp.asarray(noise), timesteps)
        fake = jax.lax.stop_gradient(student)
        x0_real, x0_fake = (denoised(x_t, alpha, sigma, *of) for of in (TEACHER, fake))
        assert x0_hat.dtype == jnp.float64
        return (probability * matching_loss(x0_hat, x0_real, x0_fake, kl_weight(alpha, sigma))).sum()

    found = jax.grad(loss)(jnp.array(STUDENT))
    expected = jax.grad(lambda student: divergence(student, alpha, sigma))(jnp.array(STUDENT))
    assert abs(expected).min() > 1e-3 * abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_usual_weight_only_scales_each_sample(float64):
    random = np.random.default_rng(0)
    x0_hat, x0_real, x0_fake = (jnp.asarray(random.standard_normal((3, 2, 2, 2, 1))) for _ in range(3))
    weight = normalised_weight(x0_hat, x0_real)
    assert weight.shape == (3, 1, 1, 1, 1)
    np.testing.assert_allclose(weight.ravel(), 1 / abs(x0_hat - x0_real).mean((1, 2, 3, 4)))

    def gradient(weight):
        return jax.grad(lambda x: matching_loss(x, x0_real, x0_fake, weight).sum())(x0_hat)

    np.testing.assert_allclose(gradient(weight), weight * gradient(1.0), rtol=1e-12)
    np.testing.assert_allclose(gradient(1.0), (x0_fake - x0_real) / x0_hat[0].size, rtol=1e-12)


def test_hinge_and_features():
    truth, student = [jnp.array([[2.0, 0.5]])], [jnp.array([[-3.0, 0.0]])]
    assert critic_loss(truth, student) == pytest.approx((0 + 0.5) / 2 + (0 + 1) / 2)
    assert adversarial_loss(student) == pytest.approx(1.5)
    assert feature_loss(truth, student) == pytest.approx((5 + 0.5) / 2)
