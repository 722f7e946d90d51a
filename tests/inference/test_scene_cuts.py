"""Where one scene ends and the next begins."""

import numpy as np
import pytest
from sample_frames import moving_clip
from sample_videos import moving_frames

from star_jax.errors import InputError
from star_jax.inference.scenes import Scene, find_cuts, read_cuts, scenes_between

WAVES, BLOCK = moving_clip(7, 48, 64), moving_frames(8, 64, 48)


def cuts_of(*parts: np.ndarray, size: int = 3) -> list[int]:
    frames = np.concatenate(parts)
    return find_cuts(frames[start : start + size] for start in range(0, len(frames), size))


def test_a_change_for_good_is_a_cut():
    assert cuts_of(WAVES, BLOCK) == [7]
    assert cuts_of(WAVES, BLOCK, WAVES[::-1], size=8) == [7, 15]
    assert cuts_of(WAVES[:1], BLOCK) == [1] and cuts_of(BLOCK, WAVES[:1]) == [8]


def test_motion_a_flash_and_a_fade_are_none():
    flash = BLOCK.copy()
    flash[4] = 255
    share = np.linspace(0, 1, 12)[:, None, None, None]
    fade = ((1 - share) * BLOCK[0] + share * WAVES[0]).astype(np.uint8)
    for clip in (WAVES, BLOCK, flash, fade, moving_clip(2), moving_clip(1)):
        assert cuts_of(clip) == []


def test_slides_are_scenes_of_one_picture_each():
    colors = np.array([[250, 20, 30], [10, 240, 20], [15, 20, 235], [240, 230, 20]], np.uint8)
    assert cuts_of(np.broadcast_to(colors[:, None, None], (4, 48, 64, 3))) == [1, 2, 3]


def test_deep_pictures_have_the_same_cuts():
    assert cuts_of(WAVES.astype(np.uint16) * 257, BLOCK.astype(np.uint16) * 257) == [7]


def test_scenes_cover_the_part_that_is_upscaled():
    assert scenes_between([7, 0, 7, 15], 0, 10) == [Scene(0, 7), Scene(7, 10)]
    assert scenes_between([7], 8, 10) == [Scene(8, 10)] and Scene(8, 10).num_frames == 2


def test_cuts_from_a_file(tmp_path):
    file = tmp_path / "cuts.txt"
    file.write_text("# by hand\n7\n\n15  # the garden\n")
    assert read_cuts(file) == [7, 15]
    file.write_text("7\n1:02\n")
    with pytest.raises(InputError, match=r"line 2 of .* is '1:02', not a frame number"):
        read_cuts(file)
    with pytest.raises(InputError, match="cannot read the scene cuts"):
        read_cuts(tmp_path / "none.txt")
