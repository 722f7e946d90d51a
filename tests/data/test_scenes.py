"""Made-up scenes: determinism, motion, range, what is held out."""

import dataclasses
import hashlib
import importlib.util

import cv2
import numpy as np
import pytest

from star_jax.data.clips import load_clip
from star_jax.data.config import DataConfig
from star_jax.data.made_up.photographs import Photograph, _reduced, photographs
from star_jax.data.made_up.scenes import HELD_OUT_PHOTO, PHOTOS, SceneVideo, _photo_crop, _scene, load_photo
from star_jax.data.sources import open_source
from star_jax.errors import InputError

pytest.importorskip("skimage")


def test_a_scene_is_a_function_of_its_number():
    video = SceneVideo(3, 48, 64)
    first = video.read(10, 4, 2)
    _scene.cache_clear()
    np.testing.assert_array_equal(video.read(10, 4, 2), first)
    np.testing.assert_array_equal(video.read(14, 1, 1)[0], first[2])
    assert not np.array_equal(SceneVideo(4, 48, 64).read(10, 4, 2), first)


@pytest.mark.parametrize("index", range(0, 40, 2))
def test_every_frame_moves_and_has_contrast(index):
    frames = SceneVideo(index, 48, 64).read(0, 8, 4)
    assert frames.shape == (8, 48, 64, 3) and frames.dtype == np.uint8
    changes = np.abs(np.diff(frames.astype(int), axis=0)).mean((1, 2, 3))
    assert (changes > 0).all()


def test_scenes_use_the_range():
    frames = np.stack([SceneVideo(index, 32, 32).read(0, 1, 1) for index in range(60)])
    assert frames.min() < 10 and frames.max() > 245
    assert frames.mean((1, 2, 3, 4)).std() > 20  # dark and bright ones
    assert 60 < frames.mean() < 190


def test_scenes_larger_than_the_photos_are_enlarged():
    rng = np.random.default_rng(0)
    assert _photo_crop("clock_motion.png", 600, 800, rng).shape == (600, 800, 3)  # of 300 x 400


def test_held_out_scenes_show_another_photo_and_have_other_numbers():
    assert HELD_OUT_PHOTO not in PHOTOS
    training, test = open_source("scenes:8"), open_source("scenes:8:held-out")
    assert not {r.video.index for r in training} & {r.video.index for r in test}
    assert [r.video.photo for r in test] == [HELD_OUT_PHOTO, None] * 4
    assert all(r.video.photo is None for r in training)


def test_an_element_of_scenes():
    config = DataConfig("scenes:3", num_frames=3, frame_interval=1, height=32, width=48)
    record = open_source(config.source, height=32, width=48)[1]
    element = load_clip(record, config, 7)
    assert element["gt"].shape == (3, 32, 48, 3) and element["lq"].shape == (3, 8, 12, 3)


@pytest.mark.parametrize("location", ["scenes", "scenes:", "scenes:0", "scenes:4:other", "scenes:x"])
def test_mistakes_in_the_location(location):
    with pytest.raises(InputError, match="scenes:COUNT"):
        open_source(location)


def test_scenes_of_a_folders_photos(tmp_path):
    cv2.imwrite(str(tmp_path / "orange.PNG"), np.full((90, 120, 3), (0, 128, 255), np.uint8))
    videos = [record.video for record in open_source(f"scenes:2:{tmp_path}", height=32, width=48)]
    assert videos[0].photos == (*PHOTOS, str(tmp_path / "orange.PNG"))
    np.testing.assert_array_equal(load_photo(videos[0].photos[-1])[0, 0], (255, 128, 0))
    assert videos[1].read(0, 2, 1).shape == (2, 32, 48, 3)
    (tmp_path / "orange.PNG").write_bytes(b"nothing")
    load_photo.cache_clear()
    with pytest.raises(InputError, match="cannot read the photo"):
        load_photo(videos[0].photos[-1])
    (tmp_path / "orange.PNG").unlink()
    with pytest.raises(InputError, match="has no photos"):
        open_source(f"scenes:2:{tmp_path}")


def test_the_list_of_photographs_and_its_pictures(tmp_path):
    listed = photographs()
    assert len({photograph.name for photograph in listed}) == len(listed) > 40
    picture = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    digest = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    row = Photograph("some-package", "a.png", 4, "CC0-1.0", digest)
    assert _reduced(tmp_path / "a.png", row).shape == (3, 4, 3)
    with pytest.raises(InputError, match=r"hash of .* is not the one in the list"):
        _reduced(tmp_path / "a.png", dataclasses.replace(row, sha256="0"))
    with pytest.raises(InputError, match="unpack some-package"):
        _reduced(tmp_path / "b.png", row)


def test_without_scikit_image(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    load_photo.cache_clear()
    with pytest.raises(InputError, match="pip install scikit-image"):
        load_photo("astronaut.png")
