import jax.numpy as jnp
import numpy as np
import pytest
from diffusion_golden import (
    BOUND,
    SCHEDULE,
    golden,
    network,
    recorded_noise,
    relative_error,
    take_recorded,
    video,
)

from star_jax.diffusion.guidance import make_conditioning
from star_jax.diffusion.noise import frame_noise, noise_key
from star_jax.diffusion.process import diffuse
from star_jax.diffusion.sampler import noised_latents, run_rows, sample
from star_jax.diffusion.solvers import initial_state, solver_table
from star_jax.diffusion.windows import make_windows


def conditioning(hint, **options):
    return make_conditioning(golden()["y_cond"], hint, golden()["y_uncond"], **options)


# tag, spacing, steps, guidance, longest window, calls of the network per row when branches count separately
RUNS = [
    ("fast15", "fast", 15, 7.5, 32, 2),
    ("normal15", "normal", 15, 7.5, 32, 2),
    ("normal50", "normal", 50, 7.5, 32, 2),
    ("fast15_noguide", "fast", 15, 1.0, 32, 1),
    ("chunked20x8", "fast", 15, 7.5, 8, 8),
]


@pytest.mark.parametrize(("tag", "spacing", "steps", "scale", "max_window", "calls"), RUNS)
def test_whole_runs_match_the_released_sampler(tag, spacing, steps, scale, max_window, calls):
    prefix = "chunk/" if tag.startswith("chunked") else ""
    start, hint = video(prefix + "start"), video(prefix + "hint")
    table = solver_table(SCHEDULE, spacing=spacing, num_inference_steps=steps)
    np.testing.assert_array_equal(np.repeat(table.rows.timestep, calls), golden()[f"sample/{tag}/t"])
    state = run_rows(
        network,
        {},
        initial_state(table, start),
        table.rows,
        conditioning(hint, guidance_scale=scale),
        recorded_noise(len(table), start.shape),
        windows=make_windows(start.shape[1], max_window),
        noise_fn=take_recorded,
    )
    error = relative_error(state.x, video(f"sample/{tag}"))
    print(f"{tag}: relative error {error:.1e}")
    assert error < BOUND


class CountingNetwork:
    """A network with one parameter that counts how often it is traced."""

    def __init__(self):
        self.shapes = []

    def __call__(self, params, x, timesteps, context, hint):
        self.shapes.append(x.shape)
        return params["gain"] * network(params, x, timesteps, context, hint)


def run_whole(velocity_fn, start, hint, *, gain=1.0, solver="dpmpp_2m_sde", max_window=32, **options):
    """Samples with the default noise; returns latents."""
    scale = options.pop("guidance_scale", 7.5)
    return sample(
        velocity_fn,
        {"gain": jnp.float32(gain)},
        start,
        solver_table(SCHEDULE, solver=solver, **options.pop("table", {})),
        conditioning(hint, guidance_scale=scale),
        noise_key(0),
        windows=make_windows(start.shape[1], max_window),
        **options,
    )


@pytest.mark.parametrize("solver", ["dpmpp_2m_sde", "heun"])
def test_the_network_is_traced_once_and_a_second_clip_does_not_recompile(solver):
    counting = CountingNetwork()
    first = run_whole(counting, video("start"), video("hint"), solver=solver)
    assert counting.shapes == [(2, 5, 6, 8, 4)]
    # Other latents, other weights, another guidance scale: the same program.
    second = run_whole(counting, video("hint"), video("start"), gain=0.5, solver=solver, guidance_scale=3.0)
    assert len(counting.shapes) == 1
    assert np.isfinite(first).all() and relative_error(second, first) > 0.1


def test_row_by_row_equals_one_call_and_compiles_once_for_any_step_count():
    counting, reports = CountingNetwork(), []
    whole = run_whole(network_with_gain, video("start"), video("hint"))
    stepped = run_whole(
        counting,
        video("start"),
        video("hint"),
        rows_per_call=1,
        progress=lambda done, total: reports.append((done, total)),
    )
    assert relative_error(stepped, whole) < 1e-5
    assert reports == [(row + 1, 14) for row in range(14)]
    run_whole(
        counting,
        video("start"),
        video("hint"),
        rows_per_call=1,
        table={"spacing": "normal", "num_inference_steps": 5},
    )
    assert len(counting.shapes) == 1


def network_with_gain(params, *arguments):
    return params["gain"] * network(params, *arguments)


def test_the_state_is_donated():
    table = solver_table(SCHEDULE)
    state = initial_state(table, jnp.array(video("start")))
    run_rows(
        network_with_gain,
        {"gain": jnp.float32(1)},
        state,
        table.rows,
        conditioning(video("hint")),
        noise_key(0),
        windows=make_windows(5, 32),
    )
    assert state.x.is_deleted() and state.memory.is_deleted()


def test_a_framewise_network_gives_the_same_frames_with_any_windows():
    """The noise belongs to the frame: without guidance only the network could tell windows apart."""
    start, hint = video("chunk/start"), video("chunk/hint")
    whole = run_whole(network_with_gain, start, hint, guidance_scale=1.0)
    counting = CountingNetwork()
    windowed = run_whole(counting, start, hint, guidance_scale=1.0, max_window=8)
    shorter = run_whole(network_with_gain, start[:, :5], hint[:, :5], guidance_scale=1.0)
    assert counting.shapes == [(1, 8, 6, 8, 4)] and windowed.shape == start.shape
    assert relative_error(windowed, whole) < 1e-6
    assert relative_error(shorter, whole[:, :5]) < 1e-6


def test_latents_are_carried_in_float32_around_a_half_precision_network():
    def half(params, x, timesteps, context, hint):
        x, context, hint = (part.astype(jnp.bfloat16) for part in (x, context, hint))
        return network(params, x, timesteps, context, hint).astype(jnp.bfloat16)

    out = run_whole(half, video("start"), video("hint"))
    exact = run_whole(network_with_gain, video("start"), video("hint"))
    assert out.dtype == jnp.float32 and relative_error(out, exact) < 0.1


def test_noised_latents_are_keyed_by_frame():
    latents = jnp.array(video("chunk/start"))
    key = noise_key(7)
    whole = noised_latents(SCHEDULE, latents, key)
    noise = frame_noise(key, "start", latents.shape)
    expected = diffuse(SCHEDULE, latents, noise, jnp.array([899]))
    assert relative_error(whole, expected) < 1e-6
    assert relative_error(noised_latents(SCHEDULE, latents[:, :5], key), whole[:, :5]) < 1e-6


def test_weights_are_arguments_of_the_program():
    """A compiled program holds no copy of the weights: the big leaf is an argument, not a constant."""
    weights = {"table": jnp.ones((300, 1000))}

    def velocity_fn(params, x, timesteps, context, hint):
        return x * jnp.mean(params["table"])

    table = solver_table(SCHEDULE)
    state = initial_state(table, jnp.array(video("start")))
    lowered = run_rows.lower(
        velocity_fn,
        weights,
        state,
        table.rows,
        conditioning(video("hint")),
        noise_key(0),
        windows=make_windows(5, 32),
    )
    text = lowered.as_text()
    signature = next(line for line in text.splitlines() if "func.func public @main" in line)
    assert "tensor<300x1000xf32>" in signature
    assert len(text) < 200_000
