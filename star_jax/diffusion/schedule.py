"""STAR's noise schedule, and the timesteps that a sampler visits; everything here runs on the host in float64."""

import dataclasses
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Num

from star_jax.config import DiffusionConfig
from star_jax.errors import InputError

SPACINGS = ("fast", "normal")

# The `fast` spacing: few steps while the content forms, and more below, independent of the number of steps.
FAST_MIDDLE = 500
FAST_STEPS = (4, 11)


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Variance-preserving noise levels x_t = alphas[t] x_0 + sigmas[t] noise.

    Attributes:
      sigmas: float64 [num_train_timesteps], increasing, the last one exactly 1 (zero terminal SNR).
      alphas: float64 [num_train_timesteps], sqrt(1 - sigmas^2).
    """

    sigmas: np.ndarray
    alphas: np.ndarray

    @classmethod
    def from_config(cls, config: DiffusionConfig) -> "NoiseSchedule":
        """Returns the schedule of a configuration (cached, so that equal configurations share one object)."""
        return _schedule_from_config(config)

    @property
    def num_train_timesteps(self) -> int:
        return len(self.sigmas)

    @property
    def log_ratios(self) -> Float[np.ndarray, " T"]:
        """log(sigma / alpha) by timestep, increasing; infinite at the last one."""
        with np.errstate(divide="ignore"):
            return np.log(self.sigmas / self.alphas)

    def timestep_to_sigma(self, timesteps: Num[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        """Noise-to-signal ratios sigma/alpha at real-valued timesteps, interpolated in log sigma."""
        return np.exp(np.interp(timesteps, np.arange(self.num_train_timesteps), self.log_ratios))

    def sigma_to_timestep(self, sigmas: Float[np.ndarray, " N"]) -> Num[np.ndarray, " N"]:
        """Real-valued timesteps of noise-to-signal ratios; the inverse of `timestep_to_sigma`, clamped."""
        with np.errstate(divide="ignore"):
            return np.interp(np.log(sigmas), self.log_ratios, np.arange(self.num_train_timesteps))


def logsnr_cosine_interp(config: DiffusionConfig) -> Float[np.ndarray, " T"]:
    """Log signal-to-noise ratios, float64 [num_train_timesteps], decreasing.

    A cosine schedule (truncated to logsnr_min..logsnr_max), shifted by a noise scale that goes from scale_min at
    the clean end to scale_max at the noisy end. See Hoogeboom et al., "simple diffusion" (arXiv 2301.11093),
    section 3.1, the equations for the shifted and the interpolated schedule.
    """
    clean = np.linspace(1.0, 0.0, config.num_train_timesteps)
    angle_noisy = np.arctan(np.exp(-0.5 * config.logsnr_min))
    angle_clean = np.arctan(np.exp(-0.5 * config.logsnr_max))
    cosine = -2.0 * np.log(np.tan(angle_noisy + clean * (angle_clean - angle_noisy)))
    return cosine - 2.0 * (clean * np.log(config.scale_min) + (1.0 - clean) * np.log(config.scale_max))


@lru_cache
def _schedule_from_config(config: DiffusionConfig) -> NoiseSchedule:
    logsnr = logsnr_cosine_interp(config)
    sigmas = np.sqrt(1.0 / (1.0 + np.exp(logsnr)))
    # Zero terminal SNR: stretch linearly, so that the last level is pure noise and the first stays unchanged.
    sigmas = sigmas[0] + (sigmas - sigmas[0]) * (1.0 - sigmas[0]) / (sigmas[-1] - sigmas[0])
    sigmas[-1] = 1.0  # exactly, or alpha would be the root of a rounding error
    return NoiseSchedule(sigmas=sigmas, alphas=np.sqrt(1.0 - sigmas**2))


@dataclass(frozen=True, eq=False)
class SamplingGrid:
    """Noise levels that a solver steps through.

    Attributes:
      sigmas: float64 [steps + 1], noise-to-signal ratios, decreasing, the last one 0.
      timesteps: int32 [steps], the network's timesteps at all levels but the last.
    """

    sigmas: np.ndarray
    timesteps: np.ndarray

    def without_penultimate(self) -> "SamplingGrid":
        """Drops the smallest nonzero level, so that a stochastic solver steps to 0 from the one before."""
        return dataclasses.replace(self, sigmas=np.delete(self.sigmas, -2), timesteps=self.timesteps[:-1])


def sampling_grid(
    schedule: NoiseSchedule,
    *,
    spacing: str = "fast",
    num_inference_steps: int = 15,
    start_timestep: int = 899,
    discard_penultimate: bool = True,
) -> SamplingGrid:
    """Noise levels from start_timestep down to 0, as in the released sampler.

    With `discard_penultimate` (dpmpp_2m_sde) there is one level more than steps, and the last but one is dropped.
    So `normal` with 15 steps evaluates the network 15 times, and `fast` always 14 times; without it (heun) `fast`
    has 15 levels.

    The network's timestep is rounded to the nearest integer, halves to even. (The original goes through float32
    logarithms and back, which rounds a few exact halves, such as 861.5 with 24 steps, down.)

    Raises:
      InputError: unknown spacing, fewer than 1 step, or a start outside the schedule.
    """
    last = schedule.num_train_timesteps - 1
    if not 0 < start_timestep <= last:
        raise InputError(f"start_timestep is {start_timestep}; choose one in 1..{last}")
    if num_inference_steps < 1:
        raise InputError(f"num_inference_steps is {num_inference_steps}; at least 1 is needed")
    count = num_inference_steps + int(discard_penultimate)
    timesteps = _space(spacing, count, start_timestep)
    sigmas = np.append(schedule.timestep_to_sigma(timesteps), 0.0)
    grid = SamplingGrid(sigmas=sigmas, timesteps=np.rint(timesteps).astype(np.int32))
    return grid.without_penultimate() if discard_penultimate else grid


def _space(spacing: str, count: int, start: int) -> np.ndarray:
    """Real-valued decreasing timesteps in 0..start."""
    if spacing == "fast":
        if start <= FAST_MIDDLE:
            raise InputError(f"start_timestep is {start}; the fast spacing needs one above {FAST_MIDDLE}")
        coarse, fine = FAST_STEPS
        return np.concatenate([_trailing(start, FAST_MIDDLE, coarse), _trailing(FAST_MIDDLE, 0, fine)])
    if spacing == "normal":
        return _trailing(start, 0, count)
    raise InputError(f"spacing is {spacing!r}; choose one of {', '.join(SPACINGS)}")


def _trailing(high: int, low: int, count: int) -> np.ndarray:
    """`count` timesteps down from `high`, in equal steps of which one more would reach low - 1."""
    return high - np.arange(count) * ((high - low + 1) / count)
