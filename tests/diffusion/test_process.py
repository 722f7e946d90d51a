import jax.numpy as jnp
import numpy as np
from diffusion_golden import BOUND, SCHEDULE, golden, relative_error, video

from star_jax.diffusion.process import diffuse, velocity, x0_from_velocity


def test_process_matches_the_released_one():
    x0, noise, timesteps = video("x0"), video("noise"), golden()["t"]
    assert relative_error(diffuse(SCHEDULE, x0, noise, timesteps), video("xt")) < BOUND
    assert relative_error(velocity(SCHEDULE, x0, noise, timesteps), video("velocity")) < BOUND
    recovered = x0_from_velocity(SCHEDULE, video("xt"), video("velocity"), timesteps)
    assert relative_error(recovered, video("x0_from_v")) < BOUND


def test_velocity_is_the_quotient_of_the_definition():
    x0, noise, timesteps = video("x0"), video("noise"), golden()["t"]
    x_t = np.asarray(diffuse(SCHEDULE, x0, noise, timesteps))
    alpha = SCHEDULE.alphas[timesteps].reshape(-1, 1, 1, 1, 1)
    sigma = SCHEDULE.sigmas[timesteps].reshape(-1, 1, 1, 1, 1)
    quotient = (alpha * x_t - x0) / sigma
    assert relative_error(velocity(SCHEDULE, x0, noise, timesteps), quotient) < BOUND


def test_timesteps_are_per_sample():
    x0, noise = video("x0"), video("noise")
    timesteps = jnp.array([0, 998])
    both = diffuse(SCHEDULE, x0, noise, timesteps)
    for sample in (0, 1):
        alone = diffuse(
            SCHEDULE, x0[sample : sample + 1], noise[sample : sample + 1], timesteps[sample : sample + 1]
        )
        np.testing.assert_array_equal(alone[0], both[sample])


def test_velocity_recovers_the_clean_latents_at_pure_noise():
    x0, noise, timesteps = video("x0"), video("noise"), jnp.array([999, 999])
    x_t = diffuse(SCHEDULE, x0, noise, timesteps)
    np.testing.assert_array_equal(x_t, noise)
    recovered = x0_from_velocity(SCHEDULE, x_t, velocity(SCHEDULE, x0, noise, timesteps), timesteps)
    np.testing.assert_array_equal(recovered, x0)
