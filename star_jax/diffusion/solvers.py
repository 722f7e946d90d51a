"""Diffusion solvers as tables of linear updates, one row per evaluation of the network.

A solver never looks at the values that it updates: it only scales and adds. So each solver is a table, computed on
the host in float64, whose row i gives the noise level of a network evaluation and the coefficients of its result:

    x'      = x_update      . (x, memory, denoised, noise)
    memory' = memory_update . (x, memory, denoised)

One `lax.scan` over the rows runs any solver. x follows the variance-exploding convention, x = x_0 + sigma noise
with sigma = sigma_t / alpha_t; c_in = 1 / sqrt(1 + sigma^2) scales it to the network's input. `memory` is carried
to the next row: the previous denoised latents (dpmpp_2m_sde), or x advanced by half a step (heun).
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from star_jax.diffusion.schedule import NoiseSchedule, SamplingGrid, sampling_grid
from star_jax.errors import InputError


class SolverRows(NamedTuple):
    """Rows of a solver's table (leading axis N), the `xs` of the scan.

    Attributes:
      sigma: float32 [N], noise-to-signal ratio at which the network is evaluated.
      c_in: float32 [N], scale from x to the network's input.
      timestep: int32 [N], the network's timestep.
      alpha_t, sigma_t: float32 [N], levels of the discrete process at `timestep`.
      x_update: float32 [N, 4], coefficients of x, memory, denoised, noise in the next x.
      memory_update: float32 [N, 3], coefficients of x, memory, denoised in the next memory.
      noise_index: int32 [N], the row's position in its table, which selects its draw of noise.
    """

    sigma: np.ndarray
    c_in: np.ndarray
    timestep: np.ndarray
    alpha_t: np.ndarray
    sigma_t: np.ndarray
    x_update: np.ndarray
    memory_update: np.ndarray
    noise_index: np.ndarray


@dataclass(frozen=True, eq=False)
class SolverTable:
    """A whole solver run.

    Attributes:
      rows: one per network evaluation.
      initial_scale: factor from x_t at the start timestep to the solver's first x.
      stochastic: whether any row adds noise.
    """

    rows: SolverRows
    initial_scale: float
    stochastic: bool

    def __len__(self) -> int:
        return len(self.rows.timestep)

    def slice(self, start: int, stop: int) -> SolverRows:
        """Rows start..stop-1."""
        return SolverRows(*(column[start:stop] for column in self.rows))


class SamplerState(NamedTuple):
    """The state that a solver carries from row to row, both parts float32 [B, F, H, W, C]."""

    x: jax.Array
    memory: jax.Array


class _Step(NamedTuple):
    """One network evaluation: its grid point and its two updates."""

    point: int
    x_update: tuple[float, float, float, float]
    memory_update: tuple[float, float, float]


def _dpmpp_2m_sde(sigmas: np.ndarray) -> list[_Step]:
    """DPM-Solver++(2M) SDE, midpoint, eta = 1 (Lu et al., arXiv 2211.01095, its SDE form).

    With h = log(sigma / sigma') and D, D_prev the denoised latents at this step and the one before:

        x' = (sigma'/sigma) e^-h x + (1 - e^-2h) (D + (D - D_prev) h / (2 h_prev)) + sigma' sqrt(1 - e^-2h) noise

    It is first order at the first step, and x' = D at the last (sigma' = 0).
    """
    steps, previous_h = [], np.inf
    for point, (sigma, target) in enumerate(pairwise(sigmas)):
        if target == 0:
            update, h = (0.0, 0.0, 1.0, 0.0), np.inf
        elif np.isinf(sigma):  # limit of pure noise, in which x is the noise itself
            update, h = (target, 0.0, 1.0, 0.0), np.inf
        else:
            h = np.log(sigma / target)
            gain = -np.expm1(-2.0 * h)
            extrapolation = 0.5 * gain * h / previous_h
            update = (
                target / sigma * np.exp(-h),
                -extrapolation,
                gain + extrapolation,
                target * np.sqrt(gain),
            )
        steps.append(_Step(point, update, (0.0, 0.0, 1.0)))
        previous_h = h
    return steps


def _heun(sigmas: np.ndarray) -> list[_Step]:
    """Heun's second-order method without churn (Karras et al., arXiv 2206.00364, algorithm 2).

    With d(x, sigma) = (x - D) / sigma and dt = sigma' - sigma, a step is two rows:

        predictor at sigma:   x' = x + dt d,            memory' = x + dt d / 2
        corrector at sigma':  x' = memory + dt d' / 2

    The last step (sigma' = 0) is only the predictor.
    """
    steps = []
    for point, (sigma, target) in enumerate(pairwise(sigmas)):
        if np.isinf(sigma):  # limit of pure noise, in which x is the noise itself: an Euler step
            steps.append(_Step(point, (target, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0)))
            continue
        slope = (target - sigma) / sigma
        euler = (1.0 + slope, 0.0, -slope, 0.0)
        steps.append(_Step(point, euler, (1.0 + 0.5 * slope, 0.0, -0.5 * slope)))
        if target > 0:
            half = 0.5 * (target - sigma) / target
            steps.append(_Step(point + 1, (half, 1.0, -half, 0.0), (0.0, 0.0, 0.0)))
    return steps


class _Solver(NamedTuple):
    """A solver's steps, and whether the last step skips the smallest nonzero level."""

    steps: Callable[[np.ndarray], list[_Step]]
    discard_penultimate: bool


_SOLVERS = {
    "dpmpp_2m_sde": _Solver(_dpmpp_2m_sde, discard_penultimate=True),
    "heun": _Solver(_heun, discard_penultimate=False),
}
SOLVERS = tuple(_SOLVERS)


def _find_solver(name: str) -> _Solver:
    if name not in _SOLVERS:
        raise InputError(f"solver is {name!r}; choose one of {', '.join(SOLVERS)}")
    return _SOLVERS[name]


def table_from_grid(schedule: NoiseSchedule, grid: SamplingGrid, solver: str) -> SolverTable:
    """The table of a solver over given noise levels.

    Raises:
      InputError: unknown solver.
    """
    steps = _find_solver(solver).steps(grid.sigmas)
    points = np.array([step.point for step in steps])
    sigma, timestep = grid.sigmas[points], grid.timesteps[points]
    first = grid.sigmas[0]
    x_update = np.array([step.x_update for step in steps])
    rows = SolverRows(
        sigma=sigma.astype(np.float32),
        c_in=np.where(np.isinf(sigma), 1.0, 1.0 / np.sqrt(1.0 + sigma**2)).astype(np.float32),
        timestep=timestep.astype(np.int32),
        alpha_t=schedule.alphas[timestep].astype(np.float32),
        sigma_t=schedule.sigmas[timestep].astype(np.float32),
        x_update=x_update.astype(np.float32),
        memory_update=np.array([step.memory_update for step in steps], np.float32),
        noise_index=np.arange(len(steps), dtype=np.int32),
    )
    # The released sampler scales its start by sigma, not by sqrt(1 + sigma^2), which is 0.1 % more at timestep 899.
    scale = 1.0 if np.isinf(first) else float(first)
    return SolverTable(rows=rows, initial_scale=scale, stochastic=bool(x_update[:, 3].any()))


def solver_table(
    schedule: NoiseSchedule,
    *,
    solver: str = "dpmpp_2m_sde",
    spacing: str = "fast",
    num_inference_steps: int = 15,
    start_timestep: int = 899,
) -> SolverTable:
    """The table of a named solver, set up as in the released sampler; see `sampling_grid` for the spacings.

    Raises:
      InputError: unknown solver or spacing, or number of steps or start timestep out of range.
    """
    grid = sampling_grid(
        schedule,
        spacing=spacing,
        num_inference_steps=num_inference_steps,
        start_timestep=start_timestep,
        discard_penultimate=_find_solver(solver).discard_penultimate,
    )
    return table_from_grid(schedule, grid, solver)


def initial_state(table: SolverTable, x_t: Float[Array, "B F H W C"]) -> SamplerState:
    """The state before the first row, from latents x_t [B, F, H, W, C] at the start timestep."""
    x = x_t.astype(jnp.float32) * table.initial_scale
    return SamplerState(x=x, memory=jnp.zeros_like(x))


def scan_rows(
    rows: SolverRows,
    state: SamplerState,
    denoise: Callable[[jax.Array, SolverRows], jax.Array],
    noise: Callable[[jax.Array, tuple[int, ...]], jax.Array] | None,
) -> SamplerState:
    """Runs rows of a table in one `lax.scan`; `denoise` is traced once.

    Args:
      rows: any consecutive part of a table.
      state: state after the previous row.
      denoise: (c_in x [B, F, H, W, C], row) -> denoised latents.
      noise: (index, shape) -> standard normal noise; None for a solver without noise.
    """

    def step(state: SamplerState, row: Any) -> tuple[SamplerState, None]:
        x, memory = state
        denoised = denoise(row.c_in * x, row).astype(jnp.float32)
        on_x, on_memory = row.x_update, row.memory_update
        next_x = on_x[0] * x + on_x[1] * memory + on_x[2] * denoised
        if noise is not None:
            next_x += on_x[3] * noise(row.noise_index, x.shape)
        next_memory = on_memory[0] * x + on_memory[1] * memory + on_memory[2] * denoised
        return SamplerState(next_x, next_memory), None

    return jax.lax.scan(step, state, rows)[0]
