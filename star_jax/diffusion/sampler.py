"""The sampling program: a solver's table, guidance and windows in one jitted scan around the network."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from star_jax.diffusion.guidance import Conditioning, VelocityFn, guided_velocity
from star_jax.diffusion.noise import frame_noise, sde_noise
from star_jax.diffusion.process import diffuse
from star_jax.diffusion.schedule import NoiseSchedule
from star_jax.diffusion.solvers import SamplerState, SolverRows, SolverTable, initial_state, scan_rows
from star_jax.diffusion.windows import Windows, map_fresh_windows, map_windows


@partial(jax.jit, static_argnames=("schedule", "start_timestep"))
def noised_latents(
    schedule: NoiseSchedule,
    latents: Float[Array, "B F H W C"],
    key: Key[Array, ""],
    *,
    start_timestep: int = 899,
    first_frame: int | Int[Array, ""] = 0,
) -> Float[Array, "B F H W C"]:
    """The start of sampling: the low-resolution latents [B, F, H, W, C], diffused to `start_timestep`.

    `first_frame` is the position of the first latent in the clip, which keys the noise.
    """
    noise = frame_noise(key, "start", latents.shape, first_frame=first_frame)
    timesteps = jnp.full(latents.shape[:1], start_timestep, jnp.int32)
    return diffuse(schedule, latents.astype(jnp.float32), noise, timesteps)


@partial(jax.jit, static_argnames=("velocity_fn", "windows", "noise_fn", "fresh"), donate_argnames="state")
def run_rows(
    velocity_fn: VelocityFn,
    params: object,
    state: SamplerState,
    rows: SolverRows,
    conditioning: Conditioning,
    key: jax.Array,
    *,
    windows: Windows,
    noise_fn: Callable[[jax.Array, jax.Array, tuple[int, ...]], jax.Array] | None = sde_noise,
    fresh: bool = False,
) -> SamplerState:
    """Advances the sampler by any consecutive rows of a solver's table; `state` is donated.

    It is compiled once for each number of rows and shape of latents: run the whole table in one call, or one row at
    a time, which uses one program for any number of steps (for progress bars, stopping, resuming). Everything but
    the network is float32.

    Args:
      velocity_fn: the network, see `VelocityFn`; with guidance the batch is 2B. Pass the same function object
        in every call, or it is compiled again.
      params: parameters of `velocity_fn`, any pytree.
      state: see `initial_state`.
      rows: see `SolverTable.slice`.
      conditioning: see `make_conditioning`.
      key: key of the run, see `noise_key`.
      windows: see `make_windows`; guidance sees one window at a time.
      noise_fn: (key, index, shape) -> noise of a stochastic solver; None for a table without noise.
      fresh: whether every window has its own first latent; latents and hint then have the layout of
        `map_fresh_windows`.
    """

    def denoise(x: jax.Array, row: SolverRows) -> jax.Array:
        timesteps = jnp.full(x.shape[:1], row.timestep, jnp.int32)
        scale = conditioning.guidance_scale
        at_row = conditioning._replace(guidance_scale=scale if scale.ndim == 0 else scale[row.noise_index])

        def denoise_window(x: jax.Array, hint: jax.Array) -> jax.Array:
            window = at_row._replace(hint=hint)
            return row.alpha_t * x - row.sigma_t * guided_velocity(velocity_fn, params, x, timesteps, window)

        over_windows = map_fresh_windows if fresh else map_windows
        return over_windows(denoise_window, windows, x, conditioning.hint)

    noise = None if noise_fn is None else partial(noise_fn, key)
    return scan_rows(rows, state, denoise, noise)


def sample(
    velocity_fn: VelocityFn,
    params: object,
    x_t: Float[Array, "B F H W C"],
    table: SolverTable,
    conditioning: Conditioning,
    key: Key[Array, ""],
    *,
    windows: Windows,
    fresh: bool = False,
    rows_per_call: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    resume: tuple[int, SamplerState] | None = None,
    on_state: Callable[[int, SamplerState], None] | None = None,
) -> Float[Array, "B F H W C"]:
    """Runs a whole solver table and returns the clean latents, float32 [B, F, H, W, C].

    Args:
      velocity_fn, params, conditioning, key, windows, fresh: see `run_rows`.
      x_t: latents at the table's start timestep, see `noised_latents`.
      table: see `solver_table`.
      rows_per_call: rows to run between two reports of progress; None runs all in one call. The result is
        the same up to rounding.
      progress: called with (rows done, total rows) after each call has finished on the device.
      resume: number of rows done by an earlier run with the same arguments, and its state after them.
      on_state: called with (rows done, state) after each call but the last, before the next one consumes the state.
    """
    first, state = (0, initial_state(table, x_t)) if resume is None else resume
    noise_fn = sde_noise if table.stochastic else None
    for start in range(first, len(table), rows_per_call or len(table)):
        stop = min(start + (rows_per_call or len(table)), len(table))
        rows = table.slice(start, stop)
        state = run_rows(
            velocity_fn,
            params,
            state,
            rows,
            conditioning,
            key,
            windows=windows,
            noise_fn=noise_fn,
            fresh=fresh,
        )
        if progress is not None:
            state.x.block_until_ready()
            progress(stop, len(table))
        if on_state is not None and stop < len(table):
            on_state(stop, state)
    return state.x
