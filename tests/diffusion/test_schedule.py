import numpy as np
import pytest
from diffusion_golden import BOUND, SCHEDULE, golden, relative_error

from star_jax.config import DiffusionConfig
from star_jax.diffusion.schedule import SPACINGS, NoiseSchedule, sampling_grid
from star_jax.errors import InputError


def test_sigmas_match_the_released_schedule():
    assert relative_error(SCHEDULE.sigmas, golden()["sigmas"]) < BOUND


def test_schedule_is_variance_preserving_and_ends_in_pure_noise():
    np.testing.assert_allclose(SCHEDULE.alphas**2 + SCHEDULE.sigmas**2, 1.0, atol=1e-12)
    assert np.all(np.diff(SCHEDULE.sigmas) > 0)
    assert SCHEDULE.sigmas[-1] == 1.0 and SCHEDULE.alphas[-1] == 0.0
    assert np.all(np.isfinite(SCHEDULE.log_ratios[:-1])) and np.isinf(SCHEDULE.log_ratios[-1])


def test_equal_configurations_share_a_schedule():
    assert NoiseSchedule.from_config(DiffusionConfig()) is SCHEDULE
    assert NoiseSchedule.from_config(DiffusionConfig(scale_max=2.0)) is not SCHEDULE


def test_timesteps_and_sigmas_are_inverse():
    timesteps = np.linspace(0, 998, 777)
    np.testing.assert_allclose(SCHEDULE.sigma_to_timestep(SCHEDULE.timestep_to_sigma(timesteps)), timesteps)
    integers = np.arange(999)
    np.testing.assert_allclose(
        SCHEDULE.timestep_to_sigma(integers), SCHEDULE.sigmas[:-1] / SCHEDULE.alphas[:-1], rtol=1e-12
    )


def test_the_ends_of_the_schedule_are_clamped():
    assert np.isinf(SCHEDULE.timestep_to_sigma(np.array([998.5, 999.0]))).all()
    np.testing.assert_array_equal(SCHEDULE.sigma_to_timestep(np.array([np.inf, 1e-9, 0.0])), [999, 0, 0])


@pytest.mark.parametrize(("tag", "spacing", "steps"), [("fast15", "fast", 15), ("fast15", "fast", 40)])
def test_fast_spacing_ignores_the_count(tag, spacing, steps):
    grid = sampling_grid(SCHEDULE, spacing=spacing, num_inference_steps=steps)
    np.testing.assert_array_equal(grid.timesteps, golden()[f"sample/{tag}/t"][::2])


@pytest.mark.parametrize("steps", [15, 50])
def test_normal_spacing_visits_the_released_timesteps(steps):
    grid = sampling_grid(SCHEDULE, spacing="normal", num_inference_steps=steps)
    np.testing.assert_array_equal(grid.timesteps, golden()[f"sample/normal{steps}/t"][::2])


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("discard", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 7, 95, 200])
def test_grids_fall_to_zero_and_have_the_asked_for_steps(spacing, discard, steps):
    grid = sampling_grid(SCHEDULE, spacing=spacing, num_inference_steps=steps, discard_penultimate=discard)
    expected = 15 - int(discard) if spacing == "fast" else steps
    assert len(grid.timesteps) == expected and len(grid.sigmas) == expected + 1
    assert np.all(np.diff(grid.sigmas) < 0) and grid.sigmas[-1] == 0.0
    assert grid.timesteps.min() >= 0 and grid.timesteps[0] == 899


def test_the_penultimate_level_is_the_discarded_one():
    every = sampling_grid(SCHEDULE, spacing="normal", num_inference_steps=16, discard_penultimate=False)
    kept = sampling_grid(SCHEDULE, spacing="normal", num_inference_steps=15, discard_penultimate=True)
    np.testing.assert_array_equal(kept.sigmas, every.sigmas[[*range(15), 16]])
    np.testing.assert_array_equal(kept.timesteps, every.timesteps[:15])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spacing": "karras"}, "spacing is 'karras'; choose one of fast, normal"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"start_timestep": 1000}, "start_timestep is 1000; choose one in 1..999"),
        ({"start_timestep": 0}, "start_timestep is 0"),
        ({"start_timestep": 400}, "start_timestep is 400; the fast spacing needs one above 500"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        sampling_grid(SCHEDULE, **arguments)
