"""Every frame keeps its own time, whatever is odd about one of them; sound stays in sync, bit by bit."""

import subprocess
import sys
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from sample_videos import (
    cut,
    moving_frames,
    packets,
    pass_through,
    remux,
    replaced,
    shown,
    skip_packets,
    sound_times,
    write_video,
)

from star_jax.errors import InputError
from star_jax.video.decoding import Damage, decode_frames
from star_jax.video.images import open_source
from star_jax.video.packets import PacketList, join_recordings
from star_jax.video.reader import VideoReader
from star_jax.video.repair import repair_times

MILLISECOND = Fraction(1, 1000)
FRAMES = moving_frames(10, 64, 48)


def times(path) -> list[float]:
    return [time for time, _ in shown(path)]


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([0, 40, 80], [0, 40, 80]),
        ([0, 500, 500, 540], [0, 500, 501, 540]),
        ([0, 40, 80, 20, 160, 200], [0, 40, 80, 120, 160, 200]),  # one goes back
        ([0, 40, 9_000_000, 120, 160], [0, 40, 80, 120, 160]),  # one jumps ahead
        ([0, None, 80, None], [0, 40, 80, 120]),
        ([0, 40, None, None], [0, 40, 80, 120]),
        ([None, 40, 80], [0, 40, 80]),
        ([7, 7, 7, 8], [14, 14, 14, 16]),
        ([None, None], [0, 40]),
        ([0, 40, 80, 80], [0, 40, 80, 81]),
    ],
)
def test_only_odd_times_are_replaced(stamps, expected):
    repaired, factor = repair_times(stamps, MILLISECOND, 40)
    assert all(second > first for first, second in pairwise(repaired))
    if factor == 1:
        assert repaired == expected
    else:  # a finer unit, where frames would not fit between two units
        kept = [time for time in repaired if time % factor == 0]
        assert {time // factor for time in kept} >= {stamps[0], stamps[-1]}


def test_any_times_become_increasing_ones_and_most_stay():
    rng = np.random.default_rng(0)
    for _ in range(200):
        count = int(rng.integers(2, 40))
        true = np.cumsum(rng.integers(1, 60, count)).tolist()
        odd = list(true)
        for position in rng.choice(count, size=int(rng.integers(0, 1 + count // 4)), replace=False):
            odd[position] = rng.choice([None, 0, true[position - 1], 10**9])
        changed = sum(a != b for a, b in zip(true, odd, strict=True))
        repaired, factor = repair_times(odd, Fraction(1, 90_000), 30)
        assert all(second > first for first, second in pairwise(repaired))
        assert sum(a == b * factor for a, b in zip(repaired, true, strict=True)) >= count - 2 * changed


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_frames_that_an_avi_recorder_dropped_leave_a_gap(tmp_path, suffix):
    slots = [0, 1, 2, 5, 6, 8, 9]
    source = write_video(
        tmp_path / "in.avi",
        FRAMES[:7],
        rate=Fraction(25),
        codec="mjpeg",
        pix_fmt="yuvj420p",
        pts=slots,
        time_base=Fraction(1, 25),
        audio="pcm_s16le",
    )
    out = pass_through(source, tmp_path / f"out{suffix}")
    assert times(out) == [slot / 25 for slot in slots]
    assert [data for *_, data in packets(out)] == [data for *_, data in packets(source)]
    assert sound_times(out) == pytest.approx(sound_times(source), abs=1e-3)


def test_h264_in_avi_has_times_of_decoding_only(tmp_path):
    source = write_video(tmp_path / "in.avi", moving_frames(25, 64, 48), rate=Fraction(25), audio="mp2")
    assert [first < second for first, second in pairwise(times(source))].count(
        False
    ) > 2  # what this is about
    out = pass_through(source, tmp_path / "out.mp4")
    assert np.diff(times(out)) == pytest.approx(0.04, abs=1e-4)
    assert sound_times(out)[0] - times(out)[0] == pytest.approx(
        sound_times(source)[0] - min(times(source)), abs=1e-3
    )


def test_a_repeated_stamp_costs_no_other_frame_its_time(tmp_path):
    stamps = [0, 40, 80, 500, 500, 540, 1000, 1040, 1500, 1540]

    def change(kind, number, packet):
        if kind == "video":
            packet.pts = packet.dts = stamps[number]
            packet.time_base = MILLISECOND
        return packet

    plain = write_video(tmp_path / "plain.mkv", FRAMES, gop=1, rate=Fraction(25), audio="aac")
    out = pass_through(remux(plain, tmp_path / "in.mkv", change), tmp_path / "out.mp4")
    expected = [0, 0.04, 0.08, 0.5, 0.501, 0.54, 1.0, 1.04, 1.5, 1.54]
    assert times(out) == pytest.approx(expected, abs=1e-4)
    assert shown(out)[-1][1] == pytest.approx(0.04, abs=1e-3)


def test_recordings_joined_byte_by_byte(tmp_path):
    one = write_video(tmp_path / "one.ts", FRAMES, rate=Fraction(25), audio="aac").read_bytes()
    two = write_video(tmp_path / "two.ts", FRAMES[::-1], rate=Fraction(25), audio="aac").read_bytes()
    (tmp_path / "in.ts").write_bytes(one + two)
    out = pass_through(tmp_path / "in.ts", tmp_path / "out.mp4")
    shown_at = times(out)
    assert len(shown_at) == 20
    assert [b - a for a, b in pairwise(shown_at)] == pytest.approx([0.04] * 19, abs=1e-3)
    sound, count = sound_times(out), len(packets(tmp_path / "one.ts"))
    headers = 7  # bytes before each packet of a broadcast's AAC, which MP4 has once for all
    assert [data for *_, data in packets(out)] == [data[headers:] for *_, data in packets(tmp_path / "in.ts")]
    # Each recording's sound lies beside its own pictures as in the file it came from.
    for first_frame, first_sound in ((0, 0), (10, count)):
        assert sound[first_sound + 3] - shown_at[first_frame] == pytest.approx(
            sound_times(tmp_path / "one.ts")[3] - times(tmp_path / "one.ts")[0], abs=2e-3
        )


def test_a_jump_ahead_is_a_new_recording_in_broadcasts_only():
    stamps = [0, 40, 80, 10**6, 10**6 + 40, 10**6 + 80, 10**6 + 120]
    lists = {0: PacketList(MILLISECOND, stamps, stamps, [40] * 7)}
    assert join_recordings(lists, 0, may_jump=False).shifts == (0,)
    joined = join_recordings(lists, 0, may_jump=True)
    assert joined.starts == {0: [3]} and joined.shift(0, 3) == (120 - 10**6) * MILLISECOND


def test_one_odd_decoding_time_is_no_new_recording():
    stamps = [0, 400, 800, 200, 1600, 2000, 2400]
    assert join_recordings({0: PacketList(MILLISECOND, stamps, stamps, [40] * 7)}, 0, False).starts == {}


def test_a_repeated_stamp_of_sound(tmp_path):
    def change(kind, number, packet):
        if kind == "audio" and number == 5:
            packet.pts = packet.dts = packet.pts - round(1024 / 44100 / packet.time_base)
        return packet

    plain = write_video(tmp_path / "plain.mkv", FRAMES, rate=Fraction(25), audio="aac")
    source = remux(plain, tmp_path / "in.mkv", change)
    out = pass_through(source, tmp_path / "out.mp4")
    assert [data for *_, data in packets(out)] == [data for *_, data in packets(plain)]
    dts = [stamp for _, stamp, _ in packets(out)]
    assert all(second > first for first, second in pairwise(dts))
    assert np.abs(np.subtract(sound_times(out), sound_times(source))).max() < 2e-3


def test_an_open_group_cut_at_its_key_frame(tmp_path, monkeypatch):
    """Three frames refer to what was cut off; every player shows the others."""
    options = {
        "x265-params": "open-gop=1:keyint=10:min-keyint=10:bframes=3:b-adapt=0:scenecut=0:log-level=error"
    }
    import av

    plain = tmp_path / "plain.mkv"
    with av.open(str(plain), "w") as container:
        stream = container.add_stream("libx265", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for image in moving_frames(30, 64, 48):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(plain)) as container:
        keys = [n for n, p in enumerate(p for p in container.demux(video=0) if p.size) if p.is_keyframe]
    source = skip_packets(plain, keys[1], "in.mkv")
    expected = times(source)
    assert len(expected) < len(packets(source, "video"))  # what this test is about
    out = pass_through(source, tmp_path / "out.mkv")
    assert np.subtract(times(out), times(out)[0]) == pytest.approx(
        np.subtract(expected, expected[0]), abs=2e-3
    )


def test_packets_of_no_bytes_repeat_the_picture(tmp_path):
    """No encoder here writes such packets, so that a stream of them is made of another's."""
    import av

    path = write_video(tmp_path / "in.mkv", FRAMES, gop=1)

    class Stream:
        def __init__(self, stream):
            self.decode = stream.codec_context.decode

    class Container:
        def __init__(self, container):
            self.container = container

        def demux(self, stream):
            for number, packet in enumerate(self.container.demux(video=0)):
                yield replaced(packet, b"") if packet.size and number % 2 else packet

    with av.open(str(path)) as container:
        found = list(decode_frames(Container(container), Stream(container.streams.video[0]), Damage()))
    assert [number for number, _ in found] == [0, 2, 4, 6, 8]


def test_slides_are_shown_as_long_as_in_the_source(tmp_path):
    source = write_video(
        tmp_path / "in.mp4", FRAMES[:4], pts=[0, 1000, 1520, 7520], time_base=MILLISECOND, rate=Fraction(25)
    )
    out = pass_through(source, tmp_path / "out.mp4")
    assert times(out) == [0, 1, 1.52, 7.52]
    assert shown(out)[-1][1] == pytest.approx(VideoReader(source).info.last_duration, abs=1e-3)
    assert VideoReader(out).info.duration == pytest.approx(VideoReader(source).info.duration, abs=1e-3)


def test_the_last_picture_of_an_animation_lasts(tmp_path):
    from PIL import Image

    images = [Image.fromarray(frame) for frame in FRAMES[:3]]
    images[0].save(tmp_path / "in.gif", save_all=True, append_images=images[1:], duration=[100, 200, 1500])
    out = pass_through(tmp_path / "in.gif", tmp_path / "out.mp4")
    assert shown(out) == [(0, 0.1), (0.1, 0.2), (0.3, 1.5)]


@pytest.fixture
def damaged(tmp_path):
    garbage = np.random.default_rng(0).integers(0, 256, 40).astype(np.uint8).tobytes()

    def change(kind, number, packet):
        return replaced(packet, garbage) if kind == "video" and number == 6 else packet

    plain = write_video(tmp_path / "plain.mp4", FRAMES, rate=Fraction(25), audio="aac", gop=4)
    return remux(plain, tmp_path / "in.mp4", change)


def test_a_damaged_packet_costs_its_frames_and_a_line(tmp_path, damaged, capsys):
    out = pass_through(damaged, tmp_path / "out.mp4")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    kept = times(out)
    assert 7 <= len(kept) < 10
    assert f"{damaged}: {10 - len(kept)} frames cannot be decoded and are left out" in lines[0]
    assert set(np.round(np.array(kept) * 25, 3)) <= set(range(10))
    assert [data for *_, data in packets(out)] == [data for *_, data in packets(damaged)]


def test_strict_refuses_damage(tmp_path, damaged):
    with pytest.raises(InputError, match="is damaged near frame"):
        pass_through(damaged, tmp_path / "out.mp4", strict=True)
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(("suffix", "share"), [(".mp4", 0.6), (".mkv", 0.7), (".webm", 0.7)])
def test_of_a_file_that_is_cut_off_what_is_there_is_kept_with_a_line(tmp_path, capsys, suffix, share):
    codec = {"codec": "libvpx-vp9"} if suffix == ".webm" else {"faststart": suffix == ".mp4", "crf": 1}
    plain = write_video(tmp_path / f"plain{suffix}", moving_frames(25, 64, 48), rate=Fraction(25), **codec)
    source = cut(plain, share, f"in{suffix}")
    out = pass_through(source, tmp_path / "out.mkv")
    said, kept = capsys.readouterr().err, times(out)
    assert 5 <= len(kept) < 25
    assert f"note: {source} is cut off after" in said or f"note: {source} ends 0." in said
    assert np.subtract(kept, kept[0]) == pytest.approx(
        np.subtract(times(plain)[: len(kept)], times(plain)[0]), abs=2e-3
    )
    with pytest.raises(InputError, match="is cut off after"):
        open_source(source, strict=True)


def test_packets_that_came_in_part_are_counted(tmp_path, capsys):
    plain = write_video(tmp_path / "plain.ts", moving_frames(25, 64, 48), rate=Fraction(25), crf=1)
    parts = np.frombuffer(plain.read_bytes(), np.uint8).reshape(-1, 188)
    source = tmp_path / "in.ts"
    source.write_bytes(np.delete(parts, len(parts) // 2, axis=0).tobytes())
    assert open_source(source).info.num_frames in (24, 25)
    assert f"note: {source}: one video packet is incomplete, as after a bad" in capsys.readouterr().err
    with pytest.raises(InputError, match="one video packet is incomplete"):
        open_source(source, strict=True)


def test_a_pipe_is_refused_at_once(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.mp4")
    code = f"from star_jax.video.reader import VideoReader; VideoReader({str(tmp_path / 'pipe.mp4')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "is a pipe or a device" in done.stderr
