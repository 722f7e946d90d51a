"""Frames as uint8 and as float in [-1, 1], and their enlargement."""

import cv2
import jax.numpy as jnp
import numpy as np

from star_jax.ops.pixels import enlarge, to_float, to_uint8


def test_every_level_comes_back():
    levels = np.arange(256, dtype=np.uint8)
    floats = np.asarray(to_float(levels))
    assert (floats.min(), floats.max(), floats.dtype) == (-1, 1, np.float32)
    np.testing.assert_array_equal(to_uint8(floats), levels)


def test_values_beyond_the_range_are_clipped_and_others_rounded():
    np.testing.assert_array_equal(
        to_uint8(jnp.array([-1.5, -1.0, 0.0, 0.999, 1.0, 7.0])), [0, 0, 128, 255, 255, 255]
    )


def test_enlargement_has_half_pixel_centres():
    """OpenCV's bilinear interpolation has them, too."""
    frames = np.random.default_rng(0).uniform(-1, 1, (2, 3, 6, 5, 3)).astype(np.float32)
    larger = np.asarray(enlarge(frames, (24, 15)))
    for index in np.ndindex(2, 3):
        expected = cv2.resize(frames[index], (15, 24), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(larger[index], expected, atol=1e-5)
    assert enlarge(frames, (6, 5)) is frames
