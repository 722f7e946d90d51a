from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion_golden import SCHEDULE, golden, video

from star_jax.diffusion.losses import (
    RELEASED_LOSS,
    LossConfig,
    decode_groups,
    draw_groups,
    frequency_balance,
    frequency_loss,
    frequency_weight,
    velocity_loss,
)
from star_jax.diffusion.process import velocity
from star_jax.errors import InputError

LAST = 999
PAPER = LossConfig()


@pytest.fixture(scope="module")
def clips():
    """Two clips of three frames, and a distorted copy."""
    rng = np.random.default_rng(0)
    target = rng.uniform(-1, 1, (2, 3, 16, 24, 3)).astype(np.float32)
    return target + 0.3 * rng.standard_normal(target.shape).astype(np.float32), target


def plain_loss(config: LossConfig, prediction, target, timestep: int) -> np.ndarray:
    """L_DF per frame of one clip [F, H, W, 3], written out in NumPy in float64."""
    spectra, masks = [], []
    for frames in (prediction, target):
        spectrum = np.fft.rfft2(frames.astype(np.float64), axes=(1, 2), norm=config.normalization)
        spectra.append(spectrum)
        if config.low_pass == "radius":
            rows = np.abs(np.fft.fftfreq(frames.shape[1]))[:, None]
            columns = np.fft.rfftfreq(frames.shape[2])[None]
            masks.append((np.sqrt(rows**2 + columns**2) <= config.cutoff)[None, :, :, None])
        else:
            size = np.abs(spectrum)
            masks.append(1 / (1 + np.exp(np.clip(-10 * (np.quantile(size, 0.8) - size), None, 500))))

    def distance(a, b):
        return (np.abs((a - b).real) + np.abs((a - b).imag)).mean((1, 2, 3)) / 2

    if config.frequency == "not_separated":
        return config.factor * distance(*spectra)
    low = distance(spectra[0] * masks[0], spectra[1] * masks[1])
    high = distance(spectra[0] * (1 - masks[0]), spectra[1] * (1 - masks[1]))
    balance = (timestep / LAST) ** config.alpha
    if config.frequency == "inverse":
        balance = 1 - balance
    return config.factor * (balance * low + (1 - balance) * high)


@pytest.mark.parametrize("low_pass", ["radius", "magnitude"])
@pytest.mark.parametrize("frequency", ["direct", "inverse", "not_separated"])
def test_frequency_loss_equals_plain_numpy_per_sample(clips, frequency, low_pass):
    config = LossConfig(frequency=frequency, low_pass=low_pass, alpha=1.5, factor=0.7, cutoff=0.2)
    timesteps = [100, 900]
    actual = frequency_loss(config, *map(jnp.asarray, clips), jnp.array(timesteps), LAST)
    for sample, timestep in enumerate(timesteps):
        expected = plain_loss(config, clips[0][sample], clips[1][sample], timestep)
        np.testing.assert_allclose(actual[sample], expected, rtol=2e-5)


def test_released_masks_and_losses():
    """Against the released script's numbers: at t_max only low frequencies count, at 0 only high ones."""
    with np.load(Path(__file__).parents[1] / "golden" / "df_loss.npz") as arrays:
        recorded = dict(arrays)
    prediction, target = (jnp.asarray(np.moveaxis(recorded[name], 1, -1)) for name in ("pred", "gt"))
    for timestep, expected in ((LAST, recorded["loss_low"]), (0, recorded["loss_high"])):
        loss = frequency_loss(RELEASED_LOSS, prediction, target, jnp.array([timestep]), LAST)
        np.testing.assert_allclose(loss.mean(), 0.01 * expected, rtol=1e-5)


def test_direct_and_inverse_share_the_whole_spectrum(clips):
    """With a fixed filter the two bands add up to the plain distance, whatever the timestep."""
    timesteps = jnp.array([300, 700])
    loss = {
        name: frequency_loss(replace(PAPER, frequency=name), *map(jnp.asarray, clips), timesteps, LAST)
        for name in ("direct", "inverse", "not_separated")
    }
    np.testing.assert_allclose(loss["direct"] + loss["inverse"], loss["not_separated"], rtol=1e-5)


def test_direct_weighs_structure_at_noisy_timesteps():
    """A constant offset is all low frequency, alternating pixels all high."""
    target = np.zeros((1, 1, 16, 16, 3), np.float32)
    offset = target + 0.5
    checkered = target + 0.5 * (-1.0) ** np.arange(16)[:, None]
    for prediction, seen_at, unseen_at in ((offset, LAST, 0), (checkered, 0, LAST)):
        losses = [
            float(
                frequency_loss(PAPER, jnp.asarray(prediction), jnp.asarray(target), jnp.array([t]), LAST)[
                    0, 0
                ]
            )
            for t in (seen_at, unseen_at)
        ]
        assert losses[0] > 0 and losses[1] < 1e-6


def test_ortho_keeps_the_scale_and_backward_grows_with_the_frame():
    noise = np.random.default_rng(1).standard_normal((1, 1, 64, 64, 3)).astype(np.float32)
    config = replace(PAPER, frequency="not_separated")

    def loss(normalization, size):
        frames = jnp.asarray(noise[:, :, :size, :size])
        setting = replace(config, normalization=normalization)
        return float(frequency_loss(setting, frames, jnp.zeros_like(frames), jnp.array([1]), LAST)[0, 0])

    assert loss("ortho", 64) == pytest.approx(loss("ortho", 16), rel=0.1)
    assert loss("backward", 64) == pytest.approx(4 * loss("backward", 16), rel=0.1)


@pytest.mark.parametrize("alpha", [0.25, 0.5, 1, 1.5, 2])
def test_balance(alpha):
    timesteps = np.array([0, 250, 999])
    actual = frequency_balance(replace(PAPER, alpha=alpha), jnp.asarray(timesteps), LAST)
    np.testing.assert_allclose(actual, (timesteps / LAST) ** alpha, rtol=1e-6)


@pytest.mark.parametrize("beta", [0.25, 0.75, 1, 1.5, 2])
def test_weight(beta):
    timesteps = np.array([0, 250, 999])
    remaining = 1 - timesteps / LAST
    linear = frequency_weight(replace(PAPER, beta=beta), jnp.asarray(timesteps), LAST)
    np.testing.assert_allclose(linear, beta * remaining, rtol=1e-6, atol=1e-7)
    config = replace(PAPER, beta=beta, schedule="exponential")
    exponential = frequency_weight(config, jnp.asarray(timesteps), LAST)
    np.testing.assert_allclose(exponential, beta * (np.exp(remaining) - 1) / (np.e - 1), rtol=1e-6, atol=1e-7)
    assert 0 < exponential[1] < linear[1]


def test_velocity_loss_is_the_mean_squared_error_to_the_recorded_target():
    x0, noise, timesteps = video("x0"), video("noise"), golden()["t"]
    prediction = np.random.default_rng(2).standard_normal(x0.shape).astype(np.float32)
    loss = velocity_loss(jnp.asarray(prediction), velocity(SCHEDULE, x0, noise, timesteps))
    expected = np.square(prediction - video("velocity")).mean((1, 2, 3, 4))
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


@pytest.mark.parametrize("low_pass", ["radius", "magnitude"])
def test_gradient_agrees_with_finite_differences(clips, low_pass):
    config = LossConfig(low_pass=low_pass)
    prediction, target = (jnp.asarray(clip[:1, :1]) for clip in clips)

    def loss(x):
        return frequency_loss(config, x, target, jnp.array([500]), LAST).sum()

    gradient = jax.grad(loss)(prediction)
    direction = gradient / jnp.sqrt(jnp.square(gradient).mean())
    slope = float(jnp.vdot(gradient, direction))
    step = 1e-3
    difference = float(loss(prediction + step * direction) - loss(prediction - step * direction)) / (2 * step)
    # The magnitude mask's cut moves with the frame, which the gradient leaves out on purpose.
    assert slope == pytest.approx(difference, rel=1e-2 if low_pass == "radius" else 0.2)


@pytest.mark.parametrize("low_pass", ["radius", "magnitude"])
def test_gradient_is_finite_where_the_spectrum_is_empty(low_pass):
    flat = jnp.zeros((1, 1, 8, 8, 3))

    def loss(x):
        return frequency_loss(LossConfig(low_pass=low_pass), x, flat, jnp.array([0]), LAST).sum()

    assert jnp.isfinite(jax.grad(loss)(flat)).all()


@pytest.mark.parametrize(("num_frames", "group"), [(32, 3), (6, 3), (2, 3), (7, 1), (8, 8)])
def test_groups_cover_every_frame_once(num_frames, group):
    starts, weights = decode_groups(num_frames, group)
    total = np.zeros(num_frames)
    for start, row in zip(starts, weights, strict=True):
        total[start : start + len(row)] += row
    np.testing.assert_allclose(total, 1 / num_frames, rtol=1e-6)
    assert weights.shape[1] == min(group, num_frames)


def test_random_groups_are_unbiased():
    """Over many draws each group occurs equally often, and the weighted loss averages to that of all frames."""
    config = LossConfig(frames=6, decode_group=3)
    num_frames, draws = 11, 4000
    value = np.random.default_rng(4).uniform(1, 2, num_frames)
    keys = jax.random.split(jax.random.key(0), draws)
    starts, weights = jax.vmap(lambda key: draw_groups(config, num_frames, key))(keys)
    assert starts.shape == (draws, 2) and (starts[:, 0] != starts[:, 1]).all()
    counts = np.unique(starts, return_counts=True)[1]
    np.testing.assert_allclose(counts, draws / 2, rtol=0.06)
    estimates = (np.asarray(weights) * value[np.asarray(starts)[..., None] + np.arange(3)]).sum((1, 2))
    assert estimates.mean() == pytest.approx(value.mean(), abs=4 * estimates.std() / np.sqrt(draws))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"frequency": "both"}, "frequency"),
        ({"schedule": "cosine"}, "schedule"),
        ({"low_pass": "box"}, "low_pass"),
        ({"normalization": "none"}, "normalization"),
        ({"beta": -1.0}, "beta"),
        ({"cutoff": 0.0}, "cutoff"),
        ({"decode_group": 0}, "decode_group"),
        ({"last_timestep": 1000}, "0..1000"),
        ({"frames": 4}, "multiple of diffusion.decode_group=3"),
    ],
)
def test_impossible_settings_are_named(settings, named):
    with pytest.raises(InputError, match=named):
        LossConfig(**settings)


def test_more_frames_than_the_clip_has():
    with pytest.raises(InputError, match=r"diffusion\.frames is 9, but clips have 6 frames"):
        draw_groups(LossConfig(frames=9), 6, jax.random.key(0))
