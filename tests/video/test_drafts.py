"""Outputs while they are written: two runs of one name, links to another disk, the longest names."""

from fractions import Fraction

import cv2
import numpy as np
from sample_videos import moving_frames

from star_jax.video.images import ImageSequenceWriter
from star_jax.video.reader import VideoReader
from star_jax.video.writer import VideoWriter


def writer(path) -> VideoWriter:
    return VideoWriter(path, width=96, height=64, frame_rate=Fraction(30), preset="ultrafast")


def test_two_writers_of_one_name_leave_a_whole_file(tmp_path):
    frames, target = moving_frames(6), tmp_path / "same.mp4"
    with writer(target) as one:
        one.write(frames[:4])
        with writer(target) as two:
            two.write(frames[:3])
        one.write(frames[4:])
    assert VideoReader(target).info.num_frames == 6
    assert [file.name for file in tmp_path.iterdir()] == ["same.mp4"]


def test_an_output_that_is_a_link_stays_one(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    for name in ("real.mp4", "real.png"):
        (disk / name).touch()
    (tmp_path / "link.mp4").symlink_to(disk / "real.mp4")
    (tmp_path / "link.png").symlink_to("disk/real.png")
    with writer(tmp_path / "link.mp4") as video:
        video.write(moving_frames(3))
    with ImageSequenceWriter(tmp_path / "link.png", width=96, height=64) as images:
        images.write(moving_frames(1))
    assert (tmp_path / "link.mp4").is_symlink() and (tmp_path / "link.png").is_symlink()
    assert VideoReader(disk / "real.mp4").info.num_frames == 3
    np.testing.assert_array_equal(cv2.imread(str(disk / "real.png"))[..., ::-1], moving_frames(1)[0])
    assert len(list(disk.iterdir())) == 2


def test_names_as_long_as_the_file_system_takes(tmp_path):
    target = tmp_path / ("n" * 251 + ".mp4")
    with writer(target) as video:
        video.write(moving_frames(3))
    assert VideoReader(target).info.num_frames == 3
