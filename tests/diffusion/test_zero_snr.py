"""CogVideoX's schedule, sampler and guidance against the original's numbers."""

import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax.config.cogvideox import ZeroSNRConfig
from star_jax.diffusion.guidance import make_conditioning
from star_jax.diffusion.losses import RELEASED_LOSS, frequency_loss, frequency_weight, velocity_loss
from star_jax.diffusion.process import diffuse, velocity, x0_from_velocity
from star_jax.diffusion.sampler import run_rows
from star_jax.diffusion.solvers import initial_state
from star_jax.diffusion.windows import make_windows
from star_jax.diffusion.zero_snr import dynamic_guidance, zero_snr_schedule, zero_snr_table
from star_jax.errors import InputError

CONFIGS = {"5b": ZeroSNRConfig(), "2b": ZeroSNRConfig(snr_shift=3.0)}
RUNS = [("5b", 50), ("2b", 50), ("5b", 20), ("2b", 30)]


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(Path(__file__).parents[1] / "golden" / "cogvideox_sampling.npz"))


@pytest.mark.parametrize("name", CONFIGS)
def test_schedule(golden, name):
    schedule = zero_snr_schedule(CONFIGS[name])
    np.testing.assert_allclose(schedule.alphas, golden[f"schedule/{name}/alphas_1000"], atol=2e-7)
    assert schedule.alphas[-1] == 0 and schedule.sigmas[-1] == 1
    np.testing.assert_allclose(schedule.alphas**2 + schedule.sigmas**2, 1)


@pytest.mark.parametrize(("name", "steps"), RUNS)
def test_table(golden, name, steps):
    """The original's numbers are float32; in float64 some differ by up to 1e-5."""
    of = {key: golden[f"schedule/{name}/{steps}/{key}"] for key in ("t", "denoiser_alpha", "guidance")}
    rows = zero_snr_table(CONFIGS[name], steps).rows
    np.testing.assert_array_equal(rows.timestep, of["t"])
    np.testing.assert_allclose(rows.alpha_t, of["denoiser_alpha"], atol=2e-7)
    np.testing.assert_allclose(rows.alpha_t**2 + rows.sigma_t**2, 1, atol=1e-6)
    scale, denoised, new, old, noise = (
        golden[f"schedule/{name}/{steps}/{key}"]
        for key in (
            "x_coefficient",
            "denoised_coefficient",
            "two_point_new",
            "two_point_old",
            "noise_coefficient",
        )
    )
    expected = np.stack([scale, denoised * old, -denoised * new, noise], axis=1)
    np.testing.assert_allclose(rows.x_update, expected, atol=1e-5)
    np.testing.assert_allclose(dynamic_guidance(6, rows.timestep), of["guidance"], rtol=1e-12)


def stand_in(params, x, timesteps, context, hint):
    """The velocity that the golden runs were made with, instead of a network."""
    del params
    told = timesteps.astype(jnp.float32)[:, None, None, None, None] / 1000
    by_text = 1 + context.mean((1, 2))[:, None, None, None, None]
    return jnp.tanh(0.8 * x - 0.5 * hint) * by_text + 0.1 * jnp.sin(3 * x) * told


@pytest.mark.parametrize(("name", "steps", "constant"), [(*run, False) for run in RUNS] + [("5b", 50, True)])
def test_whole_run(golden, name, steps, constant):
    start, lq = (jnp.asarray(np.moveaxis(golden[key], 2, -1)) for key in ("start", "lq"))
    context = jnp.asarray(golden["context"])
    table = zero_snr_table(CONFIGS[name], steps)
    shape = golden["start"].shape
    draws = jnp.asarray(np.stack([np.moveaxis(sde_draw(i, shape), 2, -1) for i in range(steps)]))
    guidance = 6.0 if constant else dynamic_guidance(6, table.rows.timestep)
    conditioning = make_conditioning(
        context, lq, jnp.zeros_like(context), guidance_scale=guidance, guidance_rescale=0.0
    )

    def run(count: int) -> np.ndarray:
        state = run_rows(
            stand_in,
            None,
            initial_state(table, start),
            table.slice(0, count),
            conditioning,
            jax.random.key(0),
            windows=make_windows(3, 3),
            noise_fn=lambda key, index, shape: draws[index],
        )
        return np.moveaxis(np.asarray(state.x), -1, 2)

    prefix = f"{name}/{steps}/constant6" if constant else f"{name}/{steps}"
    assert error(run(steps), golden[f"{prefix}/out"]) < 1e-5  # about 1e-6
    if (name, steps) == ("5b", 20):
        for count in (1, 3):
            assert error(run(count), golden[f"{prefix}/after{count}/x"]) < 1e-5


def sde_draw(step: int, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(f"star-dev/input:sde{step}".encode())))
    return rng.standard_normal(shape).astype(np.float32)


def error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("timestep", [0, 250, 750, 999])
def test_training_loss(timestep):
    """The released objective: velocity, and the frequency loss on what a stand-in for the decoder makes of x0."""
    golden = dict(np.load(Path(__file__).parents[1] / "golden" / "cogvideox_loss.npz"))
    x0, noise, lq = (jnp.asarray(np.moveaxis(golden[name], 2, -1)) for name in ("x0", "noise", "lq"))
    schedule, t = zero_snr_schedule(CONFIGS["5b"]), jnp.array([timestep])
    x_t = diffuse(schedule, x0, noise, t)
    predicted = stand_in(None, x_t, t, jnp.asarray(golden["context"]), lq)
    of_velocity = velocity_loss(predicted, velocity(schedule, x0, noise, t))
    assert error(of_velocity, golden[f"{timestep}/velocity_loss"]) < 1e-5
    x0_hat = x0_from_velocity(schedule, x_t, predicted, t)
    assert error(np.moveaxis(x0_hat, -1, 2), golden[f"{timestep}/denoised"]) < 1e-5

    decoded = x0_hat[..., :3].astype(jnp.bfloat16).astype(jnp.float32).repeat(2, 2).repeat(2, 3)
    truth = jnp.asarray(np.moveaxis(golden["hq"], 1, -1))
    of_frequencies = frequency_loss(RELEASED_LOSS, decoded, truth, t, 999).mean(1)
    total = of_velocity + frequency_weight(RELEASED_LOSS, t, 999) * of_frequencies
    assert error(total, golden[f"{timestep}/loss"]) < 1e-5


def test_the_start_is_forgotten():
    """From pure noise the first step draws its noise anew, and no step before it has denoised anything."""
    rows = zero_snr_table(CONFIGS["5b"], 10).rows
    assert not rows.x_update[0, :2].any() and rows.x_update[0, 3] > 0.99
    assert rows.x_update[1, 1] == 0  # first order
    np.testing.assert_array_equal(rows.x_update[-1], [0, 0, 1, 0])


@pytest.mark.parametrize("steps", [1, 1000])
def test_numbers_of_steps(steps):
    with pytest.raises(InputError, match=f"num_inference_steps is {steps}; choose 2 to 999"):
        zero_snr_table(CONFIGS["5b"], steps)
