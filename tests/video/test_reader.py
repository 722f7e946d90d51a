"""Reading videos: facts, frame-accurate clips, colour, orientation, odd files, and errors."""

import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from sample_videos import NTSC_FILM, color_chart, cut, moving_frames, skip_packets, write_sound, write_video

from star_jax.errors import InputError, RunError
from star_jax.video.reader import VideoReader


def read_all(reader: VideoReader, size: int = 16) -> np.ndarray:
    return np.concatenate([frames for frames, _ in reader.chunks(size)])


def mean_error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi", ".ts"])
@pytest.mark.parametrize("rate", [NTSC_FILM, Fraction(30)])
def test_info_is_exact_in_every_container(tmp_path, suffix, rate):
    path = write_video(tmp_path / f"clip{suffix}", moving_frames(151, 48, 32), rate=rate)
    info = VideoReader(path).info
    assert (info.width, info.height, info.num_frames) == (48, 32, 151)
    assert info.frame_rate == rate
    assert not info.is_variable_rate and not info.has_audio
    assert info.duration == pytest.approx(float(151 / rate), abs=2e-3)
    assert (info.pix_fmt, info.bit_depth, info.rotation) == ("yuv420p", 8, 0)


def test_chunks_give_every_frame_once_and_can_be_repeated(tmp_path):
    frames = moving_frames(50)
    reader = VideoReader(write_video(tmp_path / "clip.mp4", frames, rate=NTSC_FILM))
    pieces = list(reader.chunks(16))
    assert [len(piece) for piece, _ in pieces] == [16, 16, 16, 2]
    pts = [stamp for _, stamps in pieces for stamp in stamps]
    assert [stamp * reader.info.time_base for stamp in pts] == [i / NTSC_FILM for i in range(50)]
    whole = np.concatenate([piece for piece, _ in pieces])
    assert whole.dtype == np.uint8 and mean_error(whole, frames) < 3
    np.testing.assert_array_equal(read_all(reader, 7), whole)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts"])
def test_read_equals_sequential_decoding(tmp_path, suffix):
    reader = VideoReader(write_video(tmp_path / f"clip{suffix}", moving_frames(60)), num_threads=1)
    whole = read_all(reader)
    rng = np.random.default_rng(1)
    for _ in range(12):
        start, stride = int(rng.integers(0, 60)), int(rng.integers(1, 5))
        count = int(rng.integers(1, (60 - start - 1) // stride + 2))
        clip = reader.read(start, count, stride)
        np.testing.assert_array_equal(clip, whole[start : start + count * stride : stride][:count])
    np.testing.assert_array_equal(reader.read(57), whole[57:])


@pytest.mark.parametrize(
    ("codec", "suffix"), [("mpeg2video", ".mpg"), ("libvpx-vp9", ".webm"), ("ffv1", ".mkv")]
)
def test_other_codecs_read_the_same_way(tmp_path, codec, suffix):
    """An MPEG program stream shows other timestamps after a seek; VP9 has packets that are not shown."""
    reader = VideoReader(write_video(tmp_path / f"clip{suffix}", moving_frames(30), codec=codec))
    whole = read_all(reader)
    assert len(whole) == 30
    for start in (0, 11, 13, 26):
        np.testing.assert_array_equal(reader.read(start, None, 2), whole[start::2])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_frames_before_the_first_key_frame_do_not_count(tmp_path, suffix):
    path = skip_packets(write_video(tmp_path / "clip.mp4", moving_frames(36)), 5, f"mid{suffix}")
    reader = VideoReader(path)
    assert reader.info.num_frames == len(read_all(reader)) == 24
    np.testing.assert_array_equal(reader.read(15, 3, 2), read_all(reader)[15:20:2])


def test_read_beyond_the_end_names_the_range(tmp_path):
    reader = VideoReader(write_video(tmp_path / "clip.mp4", moving_frames(10)))
    with pytest.raises(InputError, match="has 10 frames, but 8 to 12"):
        reader.read(8, 3, 2)
    with pytest.raises(InputError, match="has 10 frames"):
        reader.read(10)


def test_variable_rate_is_seen_and_keeps_its_timestamps(tmp_path):
    pts = np.cumsum([0] + [20, 20, 60, 20, 100] * 6).tolist()
    path = write_video(tmp_path / "v.mp4", moving_frames(31), pts=pts, time_base=Fraction(1, 600))
    reader = VideoReader(path)
    assert reader.info.is_variable_rate
    assert reader.info.frame_rate == Fraction(30 * 600, 1320)
    stamps = [stamp * reader.info.time_base for _, part in reader.chunks(8) for stamp in part]
    assert stamps == [Fraction(p, 600) for p in pts]
    np.testing.assert_array_equal(reader.read(13, 5, 2), read_all(reader)[13:23:2])


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_applied(tmp_path, rotation):
    frames = moving_frames(6)
    reader = VideoReader(write_video(tmp_path / "r.mp4", frames, rotation=rotation))
    expected = np.rot90(frames, rotation // 90, axes=(1, 2))
    assert reader.info.rotation == rotation
    assert (reader.info.height, reader.info.width) == expected.shape[1:3]
    assert mean_error(read_all(reader), expected) < 3


def test_grey_becomes_rgb(tmp_path):
    frames = moving_frames(5).mean(-1, keepdims=True).astype(np.uint8).repeat(3, -1)
    reader = VideoReader(write_video(tmp_path / "g.mkv", frames, pix_fmt="gray", codec="ffv1"))
    assert reader.info.pix_fmt == "gray"
    out = read_all(reader)
    np.testing.assert_array_equal(out[..., 0], out[..., 2])
    assert mean_error(out, frames) < 2


def test_ten_bit_becomes_eight(tmp_path):
    frames = moving_frames(5)
    reader = VideoReader(write_video(tmp_path / "t.mp4", frames, pix_fmt="yuv420p10le"))
    assert reader.info.bit_depth == 10
    assert mean_error(read_all(reader), frames) < 3


def test_odd_sizes(tmp_path):
    frames = moving_frames(5, 97, 63)
    reader = VideoReader(write_video(tmp_path / "o.mp4", frames, pix_fmt="yuv444p"))
    assert (reader.info.width, reader.info.height) == (97, 63)
    assert mean_error(read_all(reader), frames) < 2


# 1: BT.709, 5: BT.470BG (the BT.601 matrix), None: untagged, read as BT.601; range 2 is full.
@pytest.mark.parametrize(("colorspace", "color_range"), [(1, 1), (5, 1), (None, 1), (1, 2)])
def test_color_follows_the_tags(tmp_path, colorspace, color_range):
    chart = color_chart().repeat(3, 0)
    path = write_video(
        tmp_path / "c.mp4", chart, pix_fmt="yuv444p", crf=0, colorspace=colorspace, color_range=color_range
    )
    reader = VideoReader(path)
    assert reader.info.colorspace == (2 if colorspace is None else colorspace)
    assert np.abs(read_all(reader).astype(int) - chart).max() <= 3
    assert mean_error(read_all(reader), chart) < 1


def test_streaming_does_not_hold_the_frames(tmp_path):
    reader = VideoReader(write_video(tmp_path / "long.mp4", moving_frames(30, 320, 192).repeat(10, 0)))
    frame_bytes = 320 * 192 * 3
    tracemalloc.start()
    try:
        total = sum(len(frames) for frames, _ in reader.chunks(8))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == 300
    assert peak < 30 * frame_bytes  # a piece as list and as array, and the one the caller still holds


def make_bad_files(folder: Path) -> dict[str, Path]:
    good = write_video(folder / "good.mp4", moving_frames(48), faststart=True)
    at_end = write_video(folder / "at_end.mp4", moving_frames(24))
    long_mkv = write_video(folder / "long.mkv", moving_frames(96))
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is no video\n" * 40)
    return {
        "no such file": folder / "missing.mp4",
        "is a folder": folder,
        "is empty": folder / "empty.mp4",
        "not a video": folder / "text.mp4",
        "has no video stream": write_sound(folder / "sound.m4a"),
        "is cut off after": cut(good, 0.6, "cut_start.mp4"),
        "cut off or not a video": cut(at_end, 0.6, "cut_end.mp4"),
        "cut off": cut(long_mkv, 0.4, "cut.mkv"),
    }


def test_bad_files_give_one_line_that_says_what_to_do(tmp_path):
    for message, path in make_bad_files(tmp_path).items():
        with pytest.raises(InputError, match=message) as caught:
            VideoReader(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value) and ";" in str(caught.value)


def test_no_permission_is_an_input_error(tmp_path, monkeypatch):
    """Permissions do not bind root, so the operating system's refusal is simulated where the file is opened."""
    path = write_video(tmp_path / "clip.mp4", moving_frames(3))

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match="no permission to read"):
        VideoReader(path)


def test_a_damaged_middle_names_the_frame(tmp_path):
    path = write_video(tmp_path / "clip.mp4", moving_frames(60), faststart=True, crf=0)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 6000] = bytes(255 - b for b in data[middle : middle + 6000])
    path.write_bytes(data)
    reader = VideoReader(path)
    with pytest.raises(RunError, match=r"cannot be decoded after frame \d+ of 60"):
        read_all(reader)
