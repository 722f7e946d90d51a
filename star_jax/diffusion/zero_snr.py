"""CogVideoX's diffusion: a scaled linear schedule with zero terminal SNR, its sampler, and its guidance.

The schedule is Stable Diffusion's, with the signal-to-noise ratio divided by `snr_shift` and stretched to end in
pure noise (Lin et al., arXiv 2305.08891, section 3.1). The solver is `dpmpp_2m_sde` of `star_jax.diffusion.solvers`
in the coordinates of the process itself, x = alpha x_0 + sqrt(1 - alpha^2) noise, so that it can begin at alpha =
0. Everything here runs on the host in float64.
"""

from functools import lru_cache

import numpy as np

from star_jax.config.cogvideox import ZeroSNRConfig
from star_jax.diffusion.schedule import NoiseSchedule
from star_jax.diffusion.solvers import SolverRows, SolverTable
from star_jax.errors import InputError


def _stretch_to_zero(alphas: np.ndarray) -> np.ndarray:
    """Stretches levels linearly until the last is pure noise; the first stays. `alphas` go from clean to noisy."""
    first, last = alphas[0], alphas[-1]
    return (alphas - last) * first / (first - last)


@lru_cache
def _shifted_alphas(config: ZeroSNRConfig) -> np.ndarray:
    """alpha by timestep, before the stretch."""
    betas = np.linspace(config.beta_start**0.5, config.beta_end**0.5, config.num_train_timesteps) ** 2
    signal = np.cumprod(1.0 - betas)
    return np.sqrt(signal / (config.snr_shift + (1.0 - config.snr_shift) * signal))


@lru_cache
def zero_snr_schedule(config: ZeroSNRConfig) -> NoiseSchedule:
    """Noise levels by timestep (cached, so that equal configurations share one object)."""
    alphas = _stretch_to_zero(_shifted_alphas(config))
    return NoiseSchedule(sigmas=np.sqrt(1.0 - alphas**2), alphas=alphas)


def zero_snr_table(config: ZeroSNRConfig, num_inference_steps: int) -> SolverTable:
    """The table of the released sampler, one row per step.

    That sampler uses two tables of levels. Its steps go between the levels of the chosen timesteps, which are
    stretched to pure noise separately. The network gets the chosen timestep, but its prediction is interpreted at
    the nearest level of the full table. From pure noise, the first step goes to the first prediction with new
    noise.

    With lam = log(alpha / sqrt(1 - alpha^2)), h = lam' - lam and r = (lam - lam_before) / h, a step is

        D  = (1 + 1/(2r)) x0 - x0_before / (2r)
        x' = sqrt((1 - alpha'^2) / (1 - alpha^2)) e^-h x + alpha' (1 - e^-2h) D
             + sqrt(1 - alpha'^2) sqrt(1 - e^-2h) noise

    It is first order at the first and the second step (r is infinite), and x' = x0 at the last.

    Raises:
      InputError: the number of steps is out of range.
    """
    last = config.num_train_timesteps - 1
    if not 2 <= num_inference_steps <= last:
        raise InputError(f"num_inference_steps is {num_inference_steps}; choose 2 to {last}")
    timesteps = np.floor(last - last * np.arange(num_inference_steps) / num_inference_steps + 1e-9).astype(
        int
    )
    alphas = _stretch_to_zero(_shifted_alphas(config)[timesteps][::-1])[::-1]
    full = zero_snr_schedule(config).alphas
    told = full[np.abs(full[None] - alphas[:, None]).argmin(1)]
    return SolverTable(
        rows=SolverRows(
            sigma=_noise_ratio(alphas),
            c_in=np.ones(num_inference_steps, np.float32),
            timestep=timesteps.astype(np.int32),
            alpha_t=told.astype(np.float32),
            sigma_t=np.sqrt(1.0 - told**2).astype(np.float32),
            x_update=_updates(np.append(alphas, 1.0)).astype(np.float32),
            memory_update=np.tile(np.array([0, 0, 1], np.float32), (num_inference_steps, 1)),
            noise_index=np.arange(num_inference_steps, dtype=np.int32),
        ),
        initial_scale=1.0,
        stochastic=True,
    )


def _noise_ratio(alphas: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return (np.sqrt(1.0 - alphas**2) / alphas).astype(np.float32)


def _updates(alphas: np.ndarray) -> np.ndarray:
    """Coefficients of x, x0_before, x0 and noise in each step from one level to the next, [steps, 4]."""
    with np.errstate(divide="ignore"):
        lam = np.log(alphas / np.sqrt(1.0 - alphas**2))
    updates = []
    for i, target in enumerate(alphas[1:]):
        noise = np.sqrt(1.0 - target**2)
        if target == 1.0:
            updates.append((0.0, 0.0, 1.0, 0.0))
        elif i == 0:  # from pure noise
            updates.append((0.0, 0.0, target, noise))
        else:
            h = lam[i + 1] - lam[i]
            gain = -target * np.expm1(-2.0 * h)
            half = 0.5 * h / (lam[i] - lam[i - 1])  # 1 / (2r); 0 if the previous step began at pure noise
            shrink = noise / np.sqrt(1.0 - alphas[i] ** 2) * np.exp(-h)
            updates.append((shrink, -gain * half, gain * (1.0 + half), noise * np.sqrt(-np.expm1(-2.0 * h))))
    return np.array(updates)


def dynamic_guidance(guidance_scale: float, timesteps: np.ndarray) -> np.ndarray:
    """Guidance scale of the released sampler at each of its n steps, float64.

    It is 1 + scale (1 - cos(pi ((n - t) / n)^5)) / 2, which was meant to rise over the n steps. But t is the
    timestep (999 .. 19), not the step, so the argument reaches millions and the scale jumps between 1 and 1 +
    scale. The authors keep it, and the released results were made with it.
    """
    count = len(timesteps)
    share = (count - np.asarray(timesteps, np.float64)) / count
    return 1.0 + guidance_scale * (1.0 - np.cos(np.pi * share**5)) / 2.0
