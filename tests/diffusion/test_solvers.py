import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion_golden import BOUND, SCHEDULE, golden, recorded_noise, relative_error, video

from star_jax.diffusion.schedule import SamplingGrid
from star_jax.diffusion.solvers import SOLVERS, initial_state, scan_rows, solver_table, table_from_grid
from star_jax.errors import InputError


def table_for(sigmas: np.ndarray, solver: str):
    sigmas = np.asarray(sigmas, np.float64)
    timesteps = np.rint(SCHEDULE.sigma_to_timestep(sigmas[:-1])).astype(np.int32)
    return table_from_grid(SCHEDULE, SamplingGrid(sigmas, timesteps), solver)


@pytest.mark.parametrize(("solver", "name"), [("heun", "heun/out"), ("dpmpp_2m_sde", "dpmpp/out")])
def test_solvers_match_the_released_ones(solver, name):
    table = table_for(golden()["heun/sigmas"], solver)
    start = video("heun/start")
    draws = recorded_noise(len(table), start.shape)

    def denoise(x, row):
        return 0.6 * x + 0.2 * jnp.tanh(x) / (1 + 0.1 * row.sigma)

    noise = (lambda index, shape: draws[index]) if table.stochastic else None
    state = scan_rows(table.rows, initial_state(table, start), denoise, noise)
    assert relative_error(state.x, video(name)) < BOUND


@pytest.mark.parametrize(
    ("solver", "spacing", "evaluations"),
    [
        ("dpmpp_2m_sde", "fast", 14),
        ("dpmpp_2m_sde", "normal", 15),
        ("heun", "fast", 29),
        ("heun", "normal", 29),
    ],
)
def test_number_of_evaluations(solver, spacing, evaluations):
    table = solver_table(SCHEDULE, solver=solver, spacing=spacing, num_inference_steps=15)
    assert len(table) == evaluations
    assert table.stochastic == (solver == "dpmpp_2m_sde")
    assert {len(column) for column in table.rows} == {evaluations}


def test_heun_asks_twice_at_every_level_but_the_first():
    rows = solver_table(SCHEDULE, solver="heun", spacing="normal", num_inference_steps=4).rows
    np.testing.assert_array_equal(rows.timestep, [899, 674, 674, 449, 449, 224, 224])
    np.testing.assert_array_equal(rows.x_update[1::2, 1], 1.0)


def gaussian_denoiser(deviation: float):
    """The exact denoiser of data N(0, deviation^2), given the network's input c_in x."""

    def denoise(x, row):
        return x / row.c_in * deviation**2 / (deviation**2 + row.sigma**2)

    return denoise


def test_heun_converges_with_second_order():
    """On Gaussian data the probability flow has a closed form; half the step, a quarter of the error."""
    deviation, start = 0.7, np.full((1, 1, 1, 1, 1), 1.3, np.float32)
    errors = []
    for steps in (16, 32, 64):
        sigmas = 10.0 * (1.0 - np.arange(steps) / steps) ** 3
        table = table_for(np.append(sigmas, 0.0), "heun")
        state = scan_rows(table.rows, initial_state(table, start), gaussian_denoiser(deviation), None)
        exact = 13.0 * deviation / np.sqrt(deviation**2 + 10.0**2)
        errors.append(abs(float(state.x.item()) - exact))
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.25)
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.25)


def test_dpmpp_2m_sde_draws_from_the_data_distribution():
    deviation, shape = 0.7, (1, 1, 200, 200, 1)
    sigmas = np.append(10.0 * (1.0 - np.arange(200) / 200) ** 3, 0.0)
    table = table_for(sigmas, "dpmpp_2m_sde")
    key = jax.random.key(0)
    start = jax.random.normal(key, shape)

    def noise(index, shape):
        return jax.random.normal(jax.random.fold_in(key, index + 1), shape)

    state = scan_rows(table.rows, initial_state(table, start), gaussian_denoiser(deviation), noise)
    assert float(jnp.std(state.x)) == pytest.approx(deviation, rel=0.02)
    assert float(jnp.mean(state.x)) == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("solver", SOLVERS)
def test_sampling_may_start_from_pure_noise(solver):
    table = solver_table(
        SCHEDULE, solver=solver, spacing="normal", num_inference_steps=12, start_timestep=999
    )
    assert table.initial_scale == 1.0 and table.rows.timestep[0] == 999
    assert all(np.isfinite(column).all() for column in table.rows[1:])
    start = jax.random.normal(jax.random.key(0), (1, 1, 100, 100, 1))
    noise = (lambda index, shape: jnp.zeros(shape)) if table.stochastic else None
    state = scan_rows(table.rows, initial_state(table, start), gaussian_denoiser(0.7), noise)
    assert np.isfinite(state.x).all() and float(jnp.std(state.x)) < 1.0


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_table_may_be_run_in_slices(solver):
    table = solver_table(SCHEDULE, solver=solver)
    start = video("heun/start")
    draws = recorded_noise(len(table), start.shape)
    arguments = gaussian_denoiser(0.7), (lambda index, shape: draws[index]) if table.stochastic else None
    whole = scan_rows(table.rows, initial_state(table, start), *arguments)
    state = initial_state(table, start)
    for first, last in ((0, 1), (1, 6), (6, len(table))):
        state = scan_rows(table.slice(first, last), state, *arguments)
    assert relative_error(state.x, whole.x) < 1e-6


def test_unknown_solver_is_named():
    with pytest.raises(InputError, match="solver is 'euler'; choose one of dpmpp_2m_sde, heun"):
        solver_table(SCHEDULE, solver="euler")
