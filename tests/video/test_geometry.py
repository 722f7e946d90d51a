import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from star_jax.errors import InputError
from star_jax.models.size_rule import SizeRule
from star_jax.video.geometry import Padding, fit_padding, pad_to_fit_original

RELEASED = json.loads((Path(__file__).parents[1] / "golden" / "chunks_and_padding.json").read_text())
RULE = SizeRule(8, 64, (16, 0))  # of four levels
SIZES = [(height, width) for height in range(1, 400, 7) for width in (1, 5, 63, 64, 65, 128, 426, 640)]


def takes(height: int, width: int) -> bool:
    """Whether the network takes frames of this size."""
    return height % 8 == 0 and width % 8 == 0 and height // 8 % 8 == 2 and width // 8 % 8 == 0 and height > 16


@pytest.mark.parametrize(
    ("height", "width", "expected"), RELEASED["pad_to_fit(h,w)->(w_left,w_right,h_top,h_bottom)"]
)
def test_original_sizes(height, width, expected):
    left, right, top, bottom = expected
    assert pad_to_fit_original(RULE, height, width) == Padding(top, bottom, left, right)


def test_original_sizes_are_taken_by_the_network():
    for height in range(1, 1500, 13):
        for width in (1, 640, 1279, 1280, 1281, 1344, 1900):
            padded_height, padded_width = pad_to_fit_original(RULE, height, width).padded_size(height, width)
            assert takes(padded_height, padded_width) and padded_height >= 720 and padded_width >= 1280


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_fit_padding_is_the_least_that_the_network_takes(height, width):
    padding = fit_padding(RULE, height, width)
    padded_height, padded_width = padding.padded_size(height, width)
    assert takes(padded_height, padded_width)
    assert (padded_height - height < 64 or padded_height == 80) and padded_width - width < 64
    assert min(padding.top, padding.bottom, padding.left, padding.right) >= 0
    assert 0 <= padding.bottom - padding.top <= 1 and 0 <= padding.right - padding.left <= 1


def test_a_size_that_fits_is_left_alone():
    assert fit_padding(RULE, 720, 1280) == fit_padding(RULE, 80, 64) == Padding(0, 0, 0, 0)


@pytest.mark.parametrize("xp", [np, jnp])
@pytest.mark.parametrize("value", [None, 1.0])
def test_padding_and_cropping(xp, value):
    frames = xp.asarray(np.random.default_rng(0).uniform(-1, 0.9, (2, 21, 37, 3)).astype(np.float32))
    padding = fit_padding(RULE, 21, 37)
    padded = padding.apply(frames, value)
    assert type(padded) is type(frames) and padded.shape == (2, 80, 64, 3)
    np.testing.assert_array_equal(padding.crop(padded), frames)
    corner = np.asarray(padded)[:, : padding.top, : padding.left]
    expected = frames[:, :1, :1] if value is None else value
    np.testing.assert_array_equal(corner, np.broadcast_to(expected, corner.shape))


def test_padding_keeps_the_type_of_pixels():
    frames = np.zeros((1, 5, 5, 3), np.uint8)
    padded = fit_padding(RULE, 5, 5).apply(frames, 255)
    assert padded.dtype == np.uint8 and padded[0, 0, 0, 0] == 255


def test_no_padding_crops_nothing():
    frames = np.ones((1, 16, 64, 3))
    assert Padding(0, 0, 0, 0).crop(frames).shape == frames.shape


@pytest.mark.parametrize("size", [(0, 64), (64, 0)])
@pytest.mark.parametrize("rule", [fit_padding, pad_to_fit_original])
def test_empty_frames_are_refused(rule, size):
    with pytest.raises(InputError, match="at least 1 pixel"):
        rule(RULE, *size)
