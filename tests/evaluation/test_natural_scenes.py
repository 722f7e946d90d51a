"""NIQE and IL-NIQE: fits against the distributions they are of, resize by its properties, features by count."""

import numpy as np
import pytest
from scipy.stats import gennorm, weibull_min

from star_jax.convert.metric_networks import METRIC_NETWORKS
from star_jax.data.made_up.synthetic import SyntheticVideo
from star_jax.evaluation.metrics import ilniqe as module
from star_jax.evaluation.metrics.ilniqe import ilniqe
from star_jax.evaluation.metrics.natural_scenes import (
    fit_asymmetric,
    in_blocks,
    luminance_features,
    normalised,
    resize,
)
from star_jax.evaluation.metrics.niqe import niqe

WINDOW = np.full((7, 7), 1 / 49)


def test_the_fit_finds_shape_and_scales():
    rng = np.random.default_rng(0)
    draws = np.abs(gennorm.rvs(0.8, scale=2, size=(2, 200_000), random_state=rng))
    draws[1, ::2] *= -1  # symmetric
    # Asymmetric: sides with scales 1 and 3, each as often as its scale.
    draws[0] = np.where(rng.random(200_000) < 0.25, -draws[0] / 2, draws[0] * 1.5)
    shape, left, right = fit_asymmetric(draws)
    assert shape == pytest.approx([0.8, 0.8], rel=0.02)
    assert left == pytest.approx([1, 2], rel=0.03) and right == pytest.approx([3, 2], rel=0.03)


def test_a_block_without_variation_has_no_fit():
    shape, left, right = fit_asymmetric(np.zeros((1, 16)))
    assert shape[0] == pytest.approx(0.2) and np.isnan(left[0]) and np.isnan(right[0])


def test_the_weibull_fit_finds_shape_and_scale():
    values = weibull_min.rvs(1.7, scale=3, size=50_000, random_state=0)
    assert module._fit_weibull(values) == pytest.approx([1.7, 3], rel=0.02)


def test_resize_keeps_constants_and_ramps_and_averages_where_it_shrinks():
    assert resize(np.full((9, 12, 3), 7.0), 5, 30) == pytest.approx(np.full((5, 30, 3), 7.0), rel=1e-6)
    ramp = np.arange(40.0)[None].repeat(4, 0)
    assert resize(ramp, 4, 80)[0, 10:-10] == pytest.approx((np.arange(80) + 0.5)[10:-10] / 2 - 0.5, abs=1e-4)
    stripes = np.tile([0.0, 1.0], 40)[None].repeat(4, 0)
    assert resize(stripes, 4, 20)[0, 3:-3] == pytest.approx(0.5, abs=0.02)  # without aliasing


def test_blocks_come_column_by_column():
    image = np.arange(24).reshape(4, 6)
    blocks = in_blocks(image, 2)
    assert blocks.shape == (6, 2, 2)
    np.testing.assert_array_equal(blocks[1], image[2:, :2])


def test_luminance_features_are_those_of_each_block_alone():
    image = normalised(SyntheticVideo(0, 64, 64, 1).frame(0)[..., 1].astype(float), WINDOW)
    features = luminance_features(in_blocks(image, 32))
    assert features.shape == (4, 18)
    assert luminance_features(image[None, 32:, :32]) == pytest.approx(features[1:2], rel=1e-9)
    assert features[:, 0].min() > 0.2  # shapes were found


def natural(name: str) -> dict[str, np.ndarray]:
    """Constants as if of natural images: means 0, covariance 1, components that pick features."""
    leaves = {key: np.zeros(shape) for key, shape in METRIC_NETWORKS[name].leaves.items()}
    leaves["covariance"] = np.eye(len(leaves["covariance"]))
    if "window" in leaves:
        leaves["window"] = WINDOW
    if "components" in leaves:
        leaves["components"] = np.eye(*leaves["components"].shape)
    return leaves


def test_niqe_is_the_distance_of_gaussians():
    frame = SyntheticVideo(0, 200, 290, 1).frame(0)
    constants = natural("niqe")
    score = niqe(constants, frame)
    assert score == niqe(constants, frame[:192, :288])  # whole blocks only
    noise = np.random.default_rng(0).integers(0, 256, frame.shape, np.uint8)
    assert np.isfinite(score) and score != pytest.approx(niqe(constants, noise), rel=0.01)


def test_ilniqe_has_468_features(monkeypatch):
    seen = {}
    monkeypatch.setattr(module, "_fit_weibull", lambda values: np.array([1.0, np.mean(values)]))  # fast
    monkeypatch.setattr(
        module, "_distance", lambda natural, features: seen.setdefault("features", features).mean()
    )
    frame = SyntheticVideo(0, 60, 80, 1).frame(0)
    ilniqe(natural("ilniqe"), frame)
    assert seen["features"].shape == (36, 468) and np.isfinite(seen["features"]).all()


def test_ilniqe_is_the_mean_distance_of_blocks():
    constants = natural("ilniqe")
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1, (36, 468))
    components = features[:, :430]
    inverse = np.linalg.pinv((np.eye(430) + np.cov(components, rowvar=False)) / 2)
    expected = np.mean([np.sqrt(c @ inverse @ c) for c in components])
    assert module._distance(constants, features) == pytest.approx(expected)
    features[3, 7] = np.nan  # takes the mean of the others
    assert np.isfinite(module._distance(constants, features))
