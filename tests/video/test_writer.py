"""Writing videos: timing, sound, colour, atomic appearance, and refused outputs."""

import os
import resource
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from sample_videos import NTSC_FILM, color_chart, moving_frames, packets, write_video

from star_jax.errors import InputError, RunError
from star_jax.launch.upscale_arguments import X264_PRESETS
from star_jax.video.encoders import PRESETS
from star_jax.video.reader import VideoReader
from star_jax.video.writer import VideoWriter, check_output_path


def copy_video(source: Path, target: Path, **options) -> VideoReader:
    """Reads a file and writes its frames unchanged."""
    reader = VideoReader(source)
    info = reader.info
    options = {"crf": 8, "preset": "ultrafast", "source": info, "frame_rate": info.frame_rate} | options
    with VideoWriter(target, width=info.width, height=info.height, **options) as writer:
        for frames, pts in reader.chunks(16):
            writer.write(frames, pts)
    return VideoReader(target)


def read_all(reader: VideoReader) -> np.ndarray:
    return np.concatenate([frames for frames, _ in reader.chunks(16)])


def times(reader: VideoReader) -> list[Fraction]:
    return [stamp * reader.info.time_base for _, part in reader.chunks(16) for stamp in part]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("rate", [NTSC_FILM, Fraction(30)])
def test_rate_count_sound_and_tags_are_kept(tmp_path, suffix, rate):
    source = write_video(tmp_path / "in.mp4", moving_frames(151, 48, 32), rate=rate, audio="aac")
    out = copy_video(source, tmp_path / f"out{suffix}")
    assert out.info.num_frames == 151
    assert out.info.frame_rate == rate and not out.info.is_variable_rate
    with av.open(str(out.path)) as container:
        assert container.streams.video[0].average_rate == rate
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    tags = (out.info.color_primaries, out.info.color_trc, out.info.colorspace, out.info.color_range)
    assert tags == (1, 1, 1, 1)
    before, after = packets(source), packets(out.path)
    assert len(before) > 100
    assert [data for *_, data in after] == [data for *_, data in before]
    if suffix != ".mkv":  # Matroska has milliseconds only
        assert [stamps for *stamps, _ in after] == [stamps for *stamps, _ in before]
        assert times(out) == [i / rate for i in range(151)]


def sync(path: Path) -> float:
    """Seconds from the first sound packet to the first frame."""
    info = VideoReader(path).info
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        first = next(p for p in container.demux(stream) if p.size)
        return float(info.start_time - first.pts * first.time_base)


@pytest.mark.parametrize("source_suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_stays_in_sync(tmp_path, source_suffix, suffix):
    """The pictures start 0.4 s after the sound, or before it, and a broadcast recording does not start at 0."""
    for name, first_frame, audio_start in (("late", 12, 0), ("early", 0, 17640)):
        source = write_video(
            tmp_path / f"{name}{source_suffix}",
            moving_frames(60, 48, 32),
            pts=list(range(first_frame, first_frame + 60)),
            audio="aac",
            audio_start=audio_start,
        )
        out = copy_video(source, tmp_path / f"{name}_out{suffix}")
        assert abs(sync(source)) > 0.3
        assert sync(out.path) == pytest.approx(sync(source), abs=2e-3)
        assert out.info.start_time < 1


def test_variable_rate_keeps_its_timestamps(tmp_path):
    pts = np.cumsum([0] + [20, 20, 60, 20, 100] * 6).tolist()
    source = write_video(
        tmp_path / "in.mp4", moving_frames(31), pts=pts, time_base=Fraction(1, 600), audio="aac"
    )
    out = copy_video(source, tmp_path / "out.mp4")
    assert out.info.is_variable_rate
    assert times(out) == times(VideoReader(source)) == [Fraction(p, 600) for p in pts]


@pytest.mark.parametrize("crf", [0, 10])
@pytest.mark.parametrize("colorspace", [1, 5, None])
def test_no_color_shift(tmp_path, colorspace, crf):
    chart = color_chart().repeat(3, 0)
    source = write_video(tmp_path / "in.mp4", chart, colorspace=colorspace, crf=0)
    before = read_all(VideoReader(source)).astype(int)
    after = read_all(copy_video(source, tmp_path / "out.mp4", crf=crf))
    assert np.abs(after - before).mean() <= 2
    shift = (after - before).mean((0, 1, 2))
    assert np.abs(shift).max() <= 1, shift


def test_colors_do_not_move_against_the_picture(tmp_path):
    """Chroma samples written centred and read as lying on the left drift by half a pixel each time."""
    bar = np.full((2, 64, 96, 3), 128, np.uint8)
    bar[:, :, 40:56] = (220, 80, 80)
    with VideoWriter(tmp_path / "in.mp4", width=96, height=64, frame_rate=Fraction(30), crf=0) as writer:
        writer.write(bar)
    out = read_all(copy_video(tmp_path / "in.mp4", tmp_path / "out.mp4", crf=0))
    redness = (out[0, ..., 0].astype(float) - out[0, ..., 1]).mean(0)
    assert (redness * np.arange(96)).sum() / redness.sum() == pytest.approx(47.5, abs=0.1)


def test_lossless_frames_survive(tmp_path):
    chart = color_chart().repeat(4, 0)
    with VideoWriter(tmp_path / "out.mp4", width=96, height=64, frame_rate=Fraction(25), crf=0) as writer:
        writer.write(chart)
    error = np.abs(read_all(VideoReader(tmp_path / "out.mp4")).astype(int) - chart)
    inner = error.reshape(4, 4, 16, 6, 16, 3)[:, :, 4:12, :, 4:12]
    assert inner.max() <= 3  # flat patches; 4:2:0 mixes colours at their borders


def test_odd_sizes_are_kept(tmp_path):
    frames = moving_frames(4, 97, 63)
    with VideoWriter(tmp_path / "out.mp4", width=97, height=63, frame_rate=Fraction(30), crf=4) as writer:
        writer.write(frames)
    out = VideoReader(tmp_path / "out.mp4")
    assert (out.info.width, out.info.height, out.info.pix_fmt) == (97, 63, "yuv444p")
    assert np.abs(read_all(out).astype(int) - frames).mean() < 2


def test_rotated_source_is_written_upright(tmp_path):
    source = write_video(tmp_path / "in.mp4", moving_frames(6), rotation=90)
    out = copy_video(source, tmp_path / "out.mp4")
    assert (out.info.width, out.info.height, out.info.rotation) == (64, 96, 0)


def test_subtitles_chapters_and_titles_are_copied(tmp_path):
    source = tmp_path / "in.mkv"
    add_subtitles(write_video(tmp_path / "plain.mkv", moving_frames(30), audio="aac"), source)
    out = copy_video(source, tmp_path / "out.mkv")
    assert packets(out.path, "subtitle") == packets(source, "subtitle")
    with av.open(str(out.path)) as container:
        assert container.metadata["title"] == "A panda"
        assert container.streams.audio[0].metadata["language"] == "jpn"
        assert [chapter["metadata"] for chapter in container.chapters()] == [{"title": "Start"}]
    as_text = copy_video(source, tmp_path / "out.mp4")  # MP4 has a form of its own
    with av.open(str(as_text.path)) as container:
        stream = container.streams.subtitles[0]
        texts = [(p.pts * p.time_base, bytes(p)[2:]) for p in container.demux(stream) if p.size > 2]
    assert texts == [(Fraction(1, 10), b"Hello")]


def test_chapters_move_with_the_picture(tmp_path):
    """The file starts at 2 s, the chapter half a second later."""
    plain = write_video(tmp_path / "plain.mkv", moving_frames(30, 48, 32), pts=list(range(60, 90)))
    source = tmp_path / "in.mkv"
    chapter = {"id": 1, "time_base": Fraction(1, 1000), "metadata": {"title": "End"}}
    with av.open(str(plain)) as old, av.open(str(source), "w") as new:
        before = {**chapter, "id": 2, "start": 0, "end": 1000}  # of what was cut away
        new.set_chapters([before, {**chapter, "start": 2500, "end": 3000}])
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux():
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    assert VideoReader(source).info.start_time == 2
    with av.open(str(copy_video(source, tmp_path / "out.mkv").path)) as container:
        (copied,) = container.chapters()
        assert [copied[name] * copied["time_base"] for name in ("start", "end")] == [Fraction(1, 2), 1]


def add_subtitles(source: Path, target: Path) -> None:
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        new.metadata["title"] = "A panda"
        new.set_chapters(
            [
                {
                    "id": 1,
                    "start": 0,
                    "end": 500,
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": "Start"},
                }
            ]
        )
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        next(s for s in new.streams if s.type == "audio").metadata["language"] = "jpn"
        text = new.add_stream("ass")
        for packet in old.demux():
            if packet.size:
                packet.stream = streams[packet.stream_index]
                new.mux(packet)
        line = av.Packet(b"0,0,Default,,0,0,0,,Hello")
        line.stream, line.time_base, line.pts, line.dts, line.duration = (
            text,
            Fraction(1, 1000),
            100,
            100,
            300,
        )
        new.mux(line)


def test_names_that_ffmpeg_would_misread(tmp_path):
    source = write_video(tmp_path / "in.mp4", moving_frames(3), audio="aac")
    source = source.rename(tmp_path / "take:2 100% 馬.mp4")
    assert copy_video(source, tmp_path / "-http:x.mp4").info.num_frames == 3


def test_nothing_is_left_after_an_error(tmp_path):
    target = tmp_path / "out.mp4"
    target.write_bytes(b"the file of yesterday")
    with (
        pytest.raises(KeyboardInterrupt),
        VideoWriter(target, width=96, height=64, frame_rate=Fraction(30)) as writer,
    ):
        writer.write(moving_frames(80))
        assert writer.partial_path.exists()
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["out.mp4"]
    assert target.read_bytes() == b"the file of yesterday"


def test_no_frames_leave_nothing(tmp_path):
    with (
        pytest.raises(RunError, match="because there were no frames"),
        VideoWriter(tmp_path / "out.mp4", width=8, height=8, frame_rate=Fraction(24)),
    ):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("option", "message"), [({"preset": "warp"}, "ultrafast"), ({"crf": 60}, "0 .* to 51")]
)
def test_bad_options_are_refused(tmp_path, option, message):
    with pytest.raises(InputError, match=message):
        VideoWriter(tmp_path / "out.mp4", width=8, height=8, frame_rate=Fraction(24), **option)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    """The process's own limit on file sizes stands in for a full disk."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 128, 128, 3), np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with (
            pytest.raises(RunError, match=r"cannot write .*out\.mkv") as caught,
            VideoWriter(tmp_path / "out.mkv", width=128, height=128, frame_rate=30, crf=0) as writer,
        ):
            writer.write(noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_refused_outputs(tmp_path):
    source = VideoReader(write_video(tmp_path / "in.mp4", moving_frames(3), audio="aac")).info
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "in.mp4")
    for name, message in {
        "out.webm": "extension .webm; choose .mp4, .mov, .mkv",
        "out": r"extension \(none\)",
        "missing/out.mp4": "mkdir -p",
        "folder.mp4": "is a folder; give a file name",
        "in.mp4": "is the input itself",
        "link.mp4": "is the input itself",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            check_output_path(tmp_path / name, source)
        assert "\n" not in str(caught.value)
    assert check_output_path(str(tmp_path / "OUT.MP4"), source) == tmp_path / "OUT.MP4"


def test_folder_without_permission_is_refused(tmp_path, monkeypatch):
    """Permissions do not bind root, so the operating system's answer is simulated."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="no permission to write"):
        check_output_path(tmp_path / "out.mp4")


@pytest.mark.parametrize(("codec", "suffix"), [("wavpack", ".mp4"), ("flac", ".mov")])
def test_sound_that_the_container_cannot_carry_is_refused_before_work(tmp_path, codec, suffix):
    source = write_video(tmp_path / "in.mkv", moving_frames(5), audio=codec)
    with pytest.raises(InputError, match=f"{suffix} cannot hold the {codec} sound of .*; write .mkv"):
        check_output_path(tmp_path / f"out{suffix}", VideoReader(source).info)
    out = copy_video(source, tmp_path / "out.mkv")
    assert [data for *_, data in packets(out.path)] == [data for *_, data in packets(source)]


def test_the_command_offers_the_encoders_efforts():
    """It has a list of its own, so that --help loads no codec; the slowest effort of all gains nothing."""
    assert (*X264_PRESETS, "placebo") == PRESETS
