"""Sound keeps its place beside the picture, whatever is odd about the time of one packet."""

import subprocess
from fractions import Fraction

import av
import imageio_ffmpeg
import numpy as np
import pytest
from sample_videos import moving_frames, packets, pass_through, remux, sound_times, write_video

from star_jax.video.repair import odd_times

FRAMES = moving_frames(10, 64, 48)


@pytest.mark.parametrize(
    ("times", "replaced"),
    [
        ([0, 23, 46, 70], {}),
        ([0, 23, 23, 46], {}),  # times that repeat stay: there may be several packets in a millisecond
        ([0, 23, 3_600_000, 70, 93], {2: 46}),
        ([0, 23, -5, 70, 93], {2: 46}),
        ([0, 23, 46, 2**50], {3: 69}),
        ([-(2**50), 23, 46, 70], {0: 0}),
        ([0, 23, 3_600_000, 3_600_023, 93, 116, 139, 162], {2: 46, 3: 69}),
        ([0, 23, 46, 70, 60_000, 60_023, 60_046, 60_070], {}),  # a pause
        ([None, 23, 46], {}),
    ],
)
def test_only_times_that_go_back_or_jump_ahead_are_replaced(times, replaced):
    assert odd_times(times, 23, 10_000) == replaced


@pytest.mark.parametrize(("number", "stamp"), [(0, -(2**50)), (17, 2**50)])
@pytest.mark.parametrize("target", [".mp4", ".mkv"])
def test_an_absurd_time_moves_no_other_packet(tmp_path, number, stamp, target):
    plain = write_video(tmp_path / "plain.mkv", FRAMES, rate=Fraction(25), audio="aac")
    assert len(packets(plain)) == 18

    def change(kind, count, packet):
        if kind == "audio" and count == number:
            packet.pts = packet.dts = stamp
        return packet

    out = pass_through(remux(plain, tmp_path / "in.nut", change), tmp_path / f"out{target}")
    assert [data for *_, data in packets(out)] == [data for *_, data in packets(plain)]
    ours, theirs = sound_times(out), sound_times(plain)
    assert np.subtract(ours, ours[5]) == pytest.approx(np.subtract(theirs, theirs[5]), abs=3e-3)


@pytest.mark.parametrize("target", [".mp4", ".mkv"])
def test_sound_that_an_edit_list_cuts_off_is_not_played(tmp_path, target):
    """MP4 to MP4 keeps the list; Matroska has none, and gets the packets that are heard."""
    plain = write_video(
        tmp_path / "plain.mp4", moving_frames(30, 64, 48), rate=Fraction(25), gop=10, audio="aac"
    )
    cut = tmp_path / "cut.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-ss", "0.6", "-i", plain, "-c", "copy", cut]
    subprocess.run(list(map(str, command)), check=True)
    with av.open(str(cut)) as container:
        sound = [packet for packet in container.demux(audio=0) if packet.size]
    unheard = sum(packet.is_discard for packet in sound)
    assert unheard > 5
    kept = [data for *_, data in packets(pass_through(cut, tmp_path / f"out{target}"))]
    expected = sound if target == ".mp4" else sound[unheard:]
    assert kept == [bytes(packet) for packet in expected]


def test_several_packets_in_a_millisecond(tmp_path):
    """As TrueHD has: 1200 packets a second, for 1000 ticks of Matroska."""
    source = tmp_path / "in.mkv"
    plain = write_video(tmp_path / "plain.mkv", FRAMES, rate=Fraction(25))
    with av.open(str(plain)) as old, av.open(str(source), "w") as new:
        picture = new.add_stream_from_template(old.streams.video[0], opaque=True)
        sound = new.add_stream("pcm_s16le", rate=48000)
        for i in range(480):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 80), np.int16), format="s16", layout="stereo")
            frame.rate, frame.pts, frame.time_base = 48000, i * 40, Fraction(1, 48000)
            new.mux(sound.encode(frame))
        for packet in old.demux():
            if packet.size:
                packet.stream = picture
                new.mux(packet)
    out = pass_through(source, tmp_path / "out.mkv")
    assert len(sound_times(source)) == 480
    assert sound_times(out) == pytest.approx(sound_times(source), abs=1.1e-3)
