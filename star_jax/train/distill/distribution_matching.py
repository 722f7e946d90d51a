"""Losses between distributions: distribution matching, hinge, feature matching.

Distribution matching (Yin et al., arXiv 2311.18828, equation 7): with the student's x0_hat diffused to
x_t = alpha x0_hat + sigma noise, the gradient of KL(student_t || teacher_t) at x0_hat is

    alpha (s_fake(x_t) - s_real(x_t)) = (alpha / sigma)^2 (x0_fake - x0_real)

because a score is s(x_t) = -(x_t - alpha x0(x_t)) / sigma^2, where x0 is denoised by the teacher (real) or by a
network that follows the student (fake). Neither is differentiated.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def matching_loss(x0_hat: jax.Array, x0_real: jax.Array, x0_fake: jax.Array, weight: jax.Array) -> jax.Array:
    """A loss whose gradient at x0_hat is that of distribution matching: weight (x0_fake - x0_real) / sample size.

    Args:
      x0_hat: the student's samples [B, ...].
      x0_real, x0_fake: these samples, diffused and then denoised by the teacher and by the fake score [B, ...].
      weight: [B, 1, ...]; see `kl_weight`, `normalised_weight`.

    Returns:
      [B], half the mean square of the gradient.
    """
    target = jax.lax.stop_gradient(x0_hat - weight * (x0_fake - x0_real))
    return 0.5 * jnp.square(x0_hat - target).mean(range(1, x0_hat.ndim))


def kl_weight(alpha: jax.Array, sigma: jax.Array) -> jax.Array:
    """The weight that gives the exact gradient of the divergence."""
    return jnp.square(alpha / sigma)


def normalised_weight(x0_hat: jax.Array, x0_real: jax.Array) -> jax.Array:
    """The paper's weight (equation 8), with which all noise levels count equally: [B, 1, ...]."""
    distance = jnp.abs(x0_hat - x0_real).mean(range(1, x0_hat.ndim), keepdims=True)
    return jax.lax.stop_gradient(1 / jnp.maximum(distance, 1e-6))


def critic_loss(of_truth: Sequence[jax.Array], of_student: Sequence[jax.Array]) -> jax.Array:
    """Hinge loss that pushes logits of the ground truth above 1 and the student's below -1.

    Returns:
      [B], the mean over heads and places.
    """
    return _mean([jax.nn.relu(1 - x) for x in of_truth]) + _mean([jax.nn.relu(1 + x) for x in of_student])


def adversarial_loss(of_student: Sequence[jax.Array]) -> jax.Array:
    """The student's side of the hinge loss, [B]."""
    return -_mean(of_student)


def feature_loss(of_truth: Sequence[jax.Array], of_student: Sequence[jax.Array]) -> jax.Array:
    """Mean absolute difference of features at the same noise and timestep, [B]."""
    return _mean([jnp.abs(a - b) for a, b in zip(of_student, of_truth, strict=True)])


def _mean(parts: Sequence[jax.Array]) -> jax.Array:
    """Mean over everything but the batch, then over the parts."""
    return jnp.stack([part.astype(jnp.float32).mean(range(1, part.ndim)) for part in parts]).mean(0)
