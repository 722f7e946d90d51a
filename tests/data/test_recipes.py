"""Recipes: how often each operation is drawn, ranges, walks, determinism, flicker."""

import collections
import dataclasses

import cv2
import numpy as np
import pytest
from scipy import stats

from star_jax.data.degradations import RECIPES, degrade, get_recipe
from star_jax.data.degradations.draws import draw_clip
from star_jax.data.degradations.kernels import GAUSSIAN_FAMILIES
from star_jax.data.degradations.recipes import BlurConfig, RoundConfig
from star_jax.data.rng import generator
from star_jax.errors import InputError

DRAWS = 2000


@pytest.fixture(scope="module", params=["realbasicvsr", "star", "light", "heavy"])
def drawn(request):
    recipe = get_recipe(request.param)
    return recipe, [draw_clip(recipe, 4, generator(11, recipe.name, i)) for i in range(DRAWS)]


def assert_frequencies(values, expected):
    """Chi-square of the counts against the configured probabilities; one in 10,000 fails by chance."""
    counts = collections.Counter(values)
    assert set(counts) <= {name for name, share in expected.items() if share > 0}
    possible = {name: share for name, share in expected.items() if share > 0}
    if len(possible) == 1:
        return
    observed = np.array([counts[name] for name in possible])
    p_value = stats.chisquare(observed, observed.sum() * np.array(list(possible.values()))).pvalue
    assert p_value > 1e-4, (counts, expected)


def yes_or_no(share):
    return {True: share, False: 1 - share}


def rounds(recipe, draws):
    for name in ("first", "second"):
        config = getattr(recipe, name)
        if config is not None:
            yield config, [getattr(draw, name) for draw in draws]


def test_operations_occur_with_their_configured_frequency(drawn):
    recipe, draws = drawn
    for config, parts in rounds(recipe, draws):
        assert_frequencies([p.blur is not None for p in parts], yes_or_no(config.blur.probability))
        assert_frequencies([p.noise is not None for p in parts], yes_or_no(config.noise.probability))
        assert_frequencies([p.quality is not None for p in parts], yes_or_no(config.jpeg.probability))
        assert_frequencies([p.codec is not None for p in parts], yes_or_no(config.codec.probability))
        codecs = [p.codec for p in parts if p.codec]
        assert_frequencies([c.name for c in codecs], dict(config.codec.codecs))
        presets = config.codec.presets
        assert_frequencies([c.preset for c in codecs], {preset: 1 / len(presets) for preset in presets})
        resize = config.resize
        shares = {"up": resize.up, "down": resize.down, "keep": resize.keep}
        assert_frequencies([p.resize.direction for p in parts], shares)
        assert_frequencies([p.resize.mode for p in parts], {mode: 1 / 3 for mode in resize.modes})
        noises = [p.noise for p in parts if p.noise]
        gaussian = config.noise.gaussian_probability
        assert_frequencies([n.kind for n in noises], {"gaussian": gaussian, "poisson": 1 - gaussian})
        assert_frequencies([n.grey for n in noises], yes_or_no(config.noise.grey_probability))
    final = recipe.final
    assert_frequencies([d.final_sinc is not None for d in draws], yes_or_no(final.sinc_probability))
    assert_frequencies([d.jpeg_first for d in draws], yes_or_no(final.jpeg_first_probability))
    assert_frequencies([d.final_mode for d in draws], {mode: 1 / 3 for mode in final.modes})


def test_kernels_occur_with_their_configured_frequency(drawn):
    recipe, draws = drawn
    for config, parts in rounds(recipe, draws):
        blurs = [p.blur for p in parts if p.blur]
        share = 1 - config.blur.sinc_probability
        expected = dict(zip(GAUSSIAN_FAMILIES, np.array(config.blur.families) * share, strict=True))
        assert_frequencies([b.family for b in blurs], expected | {"sinc": config.blur.sinc_probability})
        assert_frequencies([b.size for b in blurs], {size: 1 / 8 for size in config.blur.sizes})
        betas = [b.beta[0] < 1 for b in blurs if b.family.startswith("generalized")]
        assert_frequencies(betas, yes_or_no(0.5))


def test_ranges_are_filled_uniformly_and_never_left(drawn):
    recipe, draws = drawn
    for config, parts in rounds(recipe, draws):
        values = {
            "sigma": (
                [p.blur.sigma_x for p in parts if p.blur and p.blur.family != "sinc"],
                config.blur.sigma,
            ),
            "gaussian": (
                [p.noise.strength for p in parts if p.noise and p.noise.kind == "gaussian"],
                config.noise.gaussian_sigma,
            ),
            "poisson": (
                [p.noise.strength for p in parts if p.noise and p.noise.kind == "poisson"],
                config.noise.poisson_scale,
            ),
            "quality": ([p.quality for p in parts if p.quality is not None], config.jpeg.quality),
            "bits": ([[p.codec.bits_per_frame] for p in parts if p.codec], config.codec.bits_per_frame),
            "down": (
                [[p.resize.scale] for p in parts if p.resize.direction == "down"],
                (config.resize.scale[0], 1.0),
            ),
        }
        for name, (drawn_values, (low, high)) in values.items():
            drawn_values = np.array(drawn_values)
            assert low - 0.5 <= drawn_values.min() and drawn_values.max() <= high + 0.5, name
            uniform = stats.kstest(drawn_values[:, 0], stats.uniform(low, high - low).cdf)
            assert uniform.statistic < 0.07, name


def test_walk_moves_by_small_steps_and_sizes_hold():
    recipe = get_recipe("realbasicvsr")
    for index in range(50):
        draw = draw_clip(recipe, 32, generator(5, "walk", index)).first
        step = {"gaussian": 0.1, "poisson": 0.005}[draw.noise.kind]
        assert 0 < np.abs(np.diff(draw.noise.strength)).max() <= step + 1e-9
        assert np.abs(np.diff(draw.quality)).max() <= 4
        if draw.blur.family != "sinc":
            assert np.abs(np.diff(draw.blur.sigma_x)).max() <= 0.02 + 1e-9
    still = dataclasses.replace(recipe, walk=None)
    assert np.ptp(draw_clip(still, 32, generator(5, "walk", 0)).first.noise.strength) == 0


def static_scene(num_frames=6):
    rng = np.random.default_rng(9)
    image = cv2.resize(
        rng.uniform(0, 255, (18, 32, 3)).astype(np.float32), (256, 144), interpolation=cv2.INTER_CUBIC
    )
    return np.repeat(np.clip(image, 0, 255).astype(np.uint8)[None], num_frames, 0)


@pytest.mark.parametrize("name", list(RECIPES))
def test_same_seed_and_position_same_clip(name):
    frames = static_scene(3)
    truth, low = degrade(frames, get_recipe(name), 7, 3)
    assert truth.shape == frames.shape and low.shape == (3, 36, 64, 3)
    assert truth.dtype == low.dtype == np.uint8
    _, again = degrade(frames, get_recipe(name), 7, 3)
    np.testing.assert_array_equal(low, again)
    if name != "none":
        assert (degrade(frames, get_recipe(name), 7, 4)[1] != low).any()
        assert (degrade(frames, get_recipe(name), 8, 3)[1] != low).any()
        np.testing.assert_array_equal(frames, static_scene(3))


def without_noise(recipe):
    def quiet(config):
        return dataclasses.replace(config, noise=dataclasses.replace(config.noise, probability=0.0))

    return dataclasses.replace(recipe, first=quiet(recipe.first), second=quiet(recipe.second))


def flicker(recipe, seeds=10):
    """Frame-to-frame change of a static scene: mean of levels, and of the logarithm of its sharpness."""
    levels, sharpness = [], []
    for seed in range(seeds):
        low = degrade(static_scene(), recipe, seed, 0)[1].astype(np.float32)
        levels.append(np.abs(np.diff(low, axis=0)).mean())
        edges = [cv2.Laplacian(frame, cv2.CV_32F).std() for frame in low]
        sharpness.append(np.abs(np.diff(np.log(edges))).mean())
    return float(np.mean(levels)), float(np.mean(sharpness))


def test_parameters_of_a_clip_are_coherent_in_time():
    # Measured: sharpness 0.03 against 0.45; levels without noise (fresh in every frame, as it should be) 5 to 23.
    levels, sharpness = flicker(get_recipe("realbasicvsr"))
    levels_star, sharpness_star = flicker(get_recipe("star"))
    assert sharpness < 0.15 * sharpness_star
    assert levels < 0.8 * levels_star
    quiet, _ = flicker(without_noise(get_recipe("realbasicvsr")))
    quiet_star, _ = flicker(without_noise(get_recipe("star")))
    assert quiet < 0.35 * quiet_star


def test_sharpening_changes_the_target_only_where_asked():
    frames = static_scene(2)
    truth, _ = degrade(frames, get_recipe("none"), 0, 0)
    np.testing.assert_array_equal(truth, frames)
    sharp, _ = degrade(frames, get_recipe("none", sharpen=True), 0, 0)
    assert (sharp != frames).any()


def test_second_round_of_the_released_scripts_keeps_the_width(monkeypatch):
    sizes = []

    def record(frame, height, width, mode):
        sizes.append((height, width))
        return cv2.resize(frame, (width, height))

    monkeypatch.setattr("star_jax.data.degradations.apply.resize", record)
    degrade(static_scene(4), get_recipe("star", sharpen=False), 1, 0)
    second = sizes[1::3]
    assert {width for _, width in second} == {256}
    assert max(height for height, _ in second) <= 36 * 1.2


def test_bad_recipes_are_named():
    with pytest.raises(InputError, match="no degradation recipe 'strong'"):
        get_recipe("strong")
    with pytest.raises(InputError, match=r"blur\.families add up to 0\.5"):
        get_recipe("light", first=RoundConfig(blur=BlurConfig(families=(0.5, 0, 0, 0, 0, 0))))
    with pytest.raises(ValueError, match="not a multiple of the scale 4"):
        degrade(np.zeros((1, 10, 12, 3), np.uint8), get_recipe("none"), 0)


def test_small_crops_get_their_share_of_the_bit_rate(monkeypatch):
    rates = []

    def note(frames, codec, bits_per_frame, preset):
        rates.append(bits_per_frame)
        return frames

    monkeypatch.setattr("star_jax.data.degradations.apply.compress", note)
    for name in ("realbasicvsr", "realbasicvsr-crops"):
        degrade(static_scene(2), get_recipe(name), 7, 3)
    share = 256 * 144 / get_recipe("realbasicvsr-crops").rate_pixels
    assert share < 1 and len(rates) == 4
    assert rates[2:] == [round(share * rate) for rate in rates[:2]]
