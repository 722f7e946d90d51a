"""PSNR and SSIM against scikit-image and closed forms; flicker by hand."""

import cv2
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from star_jax.data.made_up.synthetic import SyntheticVideo
from star_jax.evaluation.metrics.flicker import FlickerScorer
from star_jax.evaluation.metrics.psnr import luma, psnr, psnr_studio
from star_jax.evaluation.metrics.ssim import ssim
from star_jax.evaluation.scores import ClipScores, difference, mean_of

# Of scikit-image, for the windows of the paper on SSIM.
AS_IN_THE_PAPER = {
    "gaussian_weights": True,
    "sigma": 1.5,
    "use_sample_covariance": False,
    "data_range": 255,
}


@pytest.fixture(scope="module")
def truth():
    return SyntheticVideo(1, 65, 98, 2).frame(0)


def noisy(frame):
    noise = np.random.default_rng(0).normal(0, 12, frame.shape)
    return np.clip(frame + noise, 0, 255).astype(np.uint8)


CHANGES = {
    "blurred": lambda frame: cv2.GaussianBlur(frame, (7, 7), 2),
    "noisy": noisy,
    "darker": lambda frame: (frame * 0.8).astype(np.uint8),
    "inverted": lambda frame: 255 - frame,
}


@pytest.mark.parametrize("change", CHANGES)
def test_against_scikit_image(truth, change):
    frame = CHANGES[change](truth)
    assert psnr(frame, truth) == pytest.approx(peak_signal_noise_ratio(truth, frame), abs=1e-9)
    expected = structural_similarity(truth, frame, channel_axis=2, **AS_IN_THE_PAPER)
    assert ssim(frame, truth) == pytest.approx(expected, abs=1e-5)
    y, truth_y = luma(frame), luma(truth)
    assert ssim(y, truth_y) == pytest.approx(structural_similarity(truth_y, y, **AS_IN_THE_PAPER), abs=1e-5)


def test_ssim_keeps_its_precision_where_nothing_varies():
    truth = np.full((40, 40), 250, np.uint8)
    frame = truth.copy()
    frame[10:20] -= 1
    assert ssim(frame, truth) == pytest.approx(
        structural_similarity(truth, frame, **AS_IN_THE_PAPER), abs=1e-4
    )


def test_luma_is_bt601_in_full_range():
    colors = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [10, 200, 60]]], np.uint8)
    expected = np.round(colors @ np.array([0.299, 0.587, 0.114]))
    np.testing.assert_array_equal(luma(colors), expected)


def test_an_error_of_one_level_is_48_dB(truth):
    assert psnr(np.full((12, 12), 7, np.uint8), np.full((12, 12), 8, np.uint8)) == pytest.approx(
        48.1308, abs=1e-4
    )
    assert psnr(truth, truth) == 100.0
    assert ssim(truth, truth) == pytest.approx(1)


def test_studio_luma_gives_a_higher_psnr(truth):
    frame = CHANGES["blurred"](truth)
    assert psnr_studio(frame, truth) - psnr(luma(frame), luma(truth)) == pytest.approx(
        20 * np.log10(255 / 219), abs=0.05
    )
    assert psnr_studio(truth, truth) == 100.0


def test_flicker_is_the_change_of_the_error_alone():
    scorer = FlickerScorer()
    rng = np.random.default_rng(1)
    values = []
    for offset in (0, 4, 4, -2):  # the scene changes at will; a constant offset is no flicker
        truth = rng.integers(50, 200, (1, 16, 16, 3)).astype(np.uint8)
        values += scorer.add((truth.astype(int) + offset).astype(np.uint8), truth)
    assert values == pytest.approx([4, 0, 6])


def test_a_clip_without_a_value_is_left_out_of_means():
    single = ClipScores("a", (0,), {"psnr": [30.0], "flicker": []}).means()
    other = ClipScores("b", (0, 1), {"psnr": [31.0, 33.0], "flicker": [3.0]}).means()
    assert single == {"psnr": 30.0, "flicker": None}
    assert mean_of([single, other]) == {"psnr": 31.0, "flicker": 3.0}
    assert difference(other, single) == {"psnr": 2.0, "flicker": None}
