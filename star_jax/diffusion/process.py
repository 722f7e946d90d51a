"""The forward process and its parametrisations; x_t = alpha x_0 + sigma noise, v = alpha noise - sigma x_0.

All functions take float32 activations [B, F, H, W, C] and one integer timestep per sample, int32 [B].
The velocity is that of Salimans and Ho, "Progressive Distillation" (arXiv 2202.00512), appendix D.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from star_jax.diffusion.schedule import NoiseSchedule


def diffuse(
    schedule: NoiseSchedule,
    x0: Float[Array, "B F H W C"],
    noise: Float[Array, "B F H W C"],
    timesteps: Int[Array, " B"],
) -> Float[Array, "B F H W C"]:
    """x_t at the given timesteps."""
    alpha, sigma = _levels(schedule, timesteps, x0.ndim)
    return alpha * x0 + sigma * noise


def velocity(
    schedule: NoiseSchedule,
    x0: Float[Array, "B F H W C"],
    noise: Float[Array, "B F H W C"],
    timesteps: Int[Array, " B"],
) -> Float[Array, "B F H W C"]:
    """The network's target at x_t = diffuse(x0, noise), which equals (alpha x_t - x0) / sigma.

    It is computed from the noise rather than from x_t, because the quotient loses digits for small sigma.
    """
    alpha, sigma = _levels(schedule, timesteps, x0.ndim)
    return alpha * noise - sigma * x0


def x0_from_velocity(
    schedule: NoiseSchedule,
    x_t: Float[Array, "B F H W C"],
    velocity: Float[Array, "B F H W C"],
    timesteps: Int[Array, " B"],
) -> Float[Array, "B F H W C"]:
    """The clean latents that follow from a velocity at x_t."""
    alpha, sigma = _levels(schedule, timesteps, x_t.ndim)
    return alpha * x_t - sigma * velocity


def _levels(schedule: NoiseSchedule, timesteps: jax.Array, ndim: int) -> tuple[jax.Array, jax.Array]:
    """alpha and sigma per sample, float32 [B, 1, ...]."""
    shape = (-1,) + (1,) * (ndim - 1)
    alphas = jnp.asarray(schedule.alphas.astype(np.float32))
    sigmas = jnp.asarray(schedule.sigmas.astype(np.float32))
    return alphas[timesteps].reshape(shape), sigmas[timesteps].reshape(shape)
