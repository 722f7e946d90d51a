"""Images as frames: order, depth, refusals, and folders that appear only when complete."""

import os
from fractions import Fraction

import cv2
import numpy as np
import pytest
from sample_videos import moving_frames, write_video

from star_jax.errors import InputError, RunError
from star_jax.video.images import ImageSequenceReader, ImageSequenceWriter, open_source, open_target
from star_jax.video.outputs import check_output_path
from star_jax.video.reader import VideoReader


def write_images(folder, frames, name="frame{}.png"):
    folder.mkdir()
    for i, image in enumerate(frames):
        cv2.imwrite(str(folder / name.format(i)), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return folder


def test_folder_is_read_in_natural_order(tmp_path):
    frames = moving_frames(12, 31, 17)
    reader = open_source(write_images(tmp_path / "in", frames), frame_rate=Fraction(25))
    info = reader.info
    assert (info.width, info.height, info.num_frames, info.frame_rate) == (31, 17, 12, 25)
    assert info.is_images and not info.has_audio
    pieces = list(reader.chunks(5))
    assert [len(piece) for piece, _ in pieces] == [5, 5, 2]
    np.testing.assert_array_equal(np.concatenate([piece for piece, _ in pieces]), frames)
    assert [stamp for _, stamps in pieces for stamp in stamps] == list(range(12))
    np.testing.assert_array_equal(reader.read(2, 4, 3), frames[2::3])
    with pytest.raises(InputError, match="has 12 images"):
        reader.read(12)


def test_single_grey_sixteen_bit_image(tmp_path):
    grey = (np.arange(64, dtype=np.uint16).reshape(8, 8) * 4) << 8
    cv2.imwrite(str(tmp_path / "g.png"), grey)
    frames = open_source(tmp_path / "g.png").read()
    assert frames.shape == (1, 8, 8, 3)
    assert np.abs(frames[0, ..., 1].astype(int) - (grey >> 8)).max() <= 1


def test_videos_are_opened_as_videos(tmp_path):
    path = write_video(tmp_path / "clip.mp4", moving_frames(3))
    assert isinstance(open_source(path), VideoReader)


def test_bad_images_are_named(tmp_path):
    (tmp_path / "none").mkdir()
    mixed = write_images(tmp_path / "mixed", moving_frames(2, 16, 16))
    cv2.imwrite(str(mixed / "frame2.png"), np.zeros((8, 16, 3), np.uint8))
    damaged = write_images(tmp_path / "damaged", moving_frames(1))
    (damaged / "frame0.png").write_text("no image")
    for path, message in {
        tmp_path / "none": "folder without images",
        tmp_path / "missing.png": "no such file",
        damaged: r"frame0\.png as an image",
    }.items():
        with pytest.raises(InputError, match=message):
            open_source(path)
    with pytest.raises(InputError, match=r"frame2\.png is 16x8, but the first image is 16x16"):
        open_source(mixed).read()


def test_written_images_come_back_exactly(tmp_path):
    frames = moving_frames(7)
    with open_target(tmp_path / "out" / "%05d.png", width=96, height=64, frame_rate=Fraction(24)) as writer:
        writer.write(frames[:4])
        assert not (tmp_path / "out").exists()
        writer.write(frames[4:])
    assert sorted(os.listdir(tmp_path / "out")) == [f"{i:05d}.png" for i in range(7)]
    np.testing.assert_array_equal(ImageSequenceReader(tmp_path / "out").read(), frames)
    assert os.listdir(tmp_path) == ["out"]


def test_one_image(tmp_path):
    frame = moving_frames(1)
    with open_target(tmp_path / "one.png", width=96, height=64, frame_rate=Fraction(24)) as writer:
        writer.write(frame)
    np.testing.assert_array_equal(open_source(tmp_path / "one.png").read(), frame)
    with (
        pytest.raises(RunError, match="can hold only one of several frames"),
        ImageSequenceWriter(tmp_path / "two.png", width=96, height=64) as writer,
    ):
        writer.write(moving_frames(2))
    assert os.listdir(tmp_path) == ["one.png"]


def test_images_become_a_video(tmp_path):
    reader = open_source(write_images(tmp_path / "in", moving_frames(9)), frame_rate=Fraction(24000, 1001))
    rate = reader.info.frame_rate
    with open_target(
        tmp_path / "out.mp4", width=96, height=64, frame_rate=rate, source=reader.info
    ) as writer:
        for frames, pts in reader.chunks(4):
            writer.write(frames, pts)
    info = VideoReader(tmp_path / "out.mp4").info
    assert (info.num_frames, info.frame_rate) == (9, rate)


def test_refused_image_outputs(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").touch()
    source = open_source(write_images(tmp_path / "in", moving_frames(2))).info
    for name, message in {
        "full/%05d.png": "is not empty",
        "new/%q.png": "is not a pattern",
        "new/%s%s.png": "is not a pattern",
        "a/b/%05d.png": "mkdir -p",
        "one.png": "can hold only one of 2 frames; write to .*one/%05d.png",
    }.items():
        with pytest.raises(InputError, match=message):
            check_output_path(tmp_path / name, source)
    assert check_output_path(tmp_path / "new" / "%05d.png", source).name == "%05d.png"


def test_an_error_leaves_no_folder(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        ImageSequenceWriter(tmp_path / "out" / "%03d.png", width=96, height=64) as writer,
    ):
        writer.write(moving_frames(2))
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
