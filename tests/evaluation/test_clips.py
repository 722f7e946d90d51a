"""Which inputs can be the low resolution of a result."""

import cv2
import numpy as np
import pytest

from star_jax.errors import InputError
from star_jax.evaluation.clips import pair_clips
from star_jax.inference.settings import UpscaleSettings


def write(path, height: int, width: int):
    cv2.imwrite(str(path), np.zeros((height, width, 3), np.uint8))
    return path


@pytest.mark.parametrize("scale", [1, 1.1, 1.25, 2, 3, 4])
@pytest.mark.parametrize("size", [(271, 480), (101, 180), (180, 101), (37, 211)])
def test_every_size_that_upscaling_gives_belongs_to_its_input(tmp_path, scale, size):
    target = UpscaleSettings(scale=scale).target_size(*size)
    result, low = write(tmp_path / "result.png", *target), write(tmp_path / "low.png", *size)
    assert len(pair_clips(result, result, low)) == 1


@pytest.mark.parametrize("size", [(100, 160), (270, 400), (600, 960)])
def test_other_sizes_do_not(tmp_path, size):
    result, low = write(tmp_path / "result.png", 540, 960), write(tmp_path / "low.png", *size)
    with pytest.raises(InputError, match="which cannot be the low resolution of"):
        pair_clips(result, result, low)
