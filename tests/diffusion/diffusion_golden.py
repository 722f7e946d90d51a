"""Recorded runs of the released sampler, and the stand-in network and noise they were made with."""

import zlib
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.config import DiffusionConfig
from star_jax.diffusion.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.from_config(DiffusionConfig())
BOUND = 1e-4


@cache
def golden() -> dict[str, np.ndarray]:
    """All recorded arrays; videos are (batch, channels, frames, height, width)."""
    with np.load(Path(__file__).parents[1] / "golden" / "diffusion.npz") as arrays:
        return dict(arrays)


def video(name: str) -> np.ndarray:
    """A recorded video as [B, F, H, W, C]."""
    return np.moveaxis(golden()[name], 1, -1)


def relative_error(actual, expected) -> float:
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def network(params, x, timesteps, context, hint):
    """The stand-in for the network."""
    per_sample = (-1, 1, 1, 1, 1)
    gain = 1 + jnp.mean(context, (1, 2)).reshape(per_sample)
    time = timesteps.reshape(per_sample) / 1000
    return jnp.tanh(0.8 * x - 0.5 * hint) * gain + 0.1 * jnp.sin(3 * x) * time


def recorded_noise(count: int, shape: tuple[int, ...]) -> jax.Array:
    """The first `count` draws of the recorded runs for latents `shape`, [count, B, F, H, W, C]."""
    batch, frames, height, width, channels = shape
    draws = []
    for index in range(count):
        generator = np.random.Generator(np.random.PCG64(zlib.crc32(f"star-dev/input:sde{index}".encode())))
        draw = generator.standard_normal((batch, channels, frames, height, width)).astype(np.float32)
        draws.append(np.moveaxis(draw, 1, -1))
    return jnp.array(draws)


def take_recorded(noise, index, shape):
    """A noise_fn that reads `recorded_noise`, passed in place of the key."""
    return noise[index]
