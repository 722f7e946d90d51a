"""What cannot be written is known before any work, and what an encoder leaves out is said."""

from fractions import Fraction
from pathlib import Path

import av
import pytest
from sample_videos import moving_frames, pass_through, remux, replaced, write_video

from star_jax.errors import InputError
from star_jax.video.encoders import Quality
from star_jax.video.images import open_source
from star_jax.video.writer import VideoWriter

FRAMES = moving_frames(10, 64, 48)


def no_sound(path: Path) -> Path:
    """Sound whose packets the muxer of .mkv refuses, although its header takes them."""
    plain = write_video(path.with_suffix(".ts"), FRAMES, rate=Fraction(25), audio="aac")

    def change(kind, number, packet):
        return replaced(packet, b"this is no AAC") if kind == "audio" else packet

    return remux(plain, path.with_suffix(".nut"), change)


def after_all_time(path: Path) -> Path:
    """A picture so long after the sound that its time does not fit the finer ticks of the output."""
    plain = write_video(path.with_suffix(".plain.mkv"), FRAMES, rate=Fraction(25), gop=1, audio="aac")

    def change(kind, number, packet):
        if kind == "video":
            packet.pts += 2**61
            packet.dts = packet.pts
        return packet

    return remux(plain, path.with_suffix(".mkv"), change)


@pytest.mark.parametrize("damaged", [no_sound, after_all_time])
def test_what_cannot_be_written_is_known_before_any_work(tmp_path, damaged):
    info = open_source(damaged(tmp_path / "in")).info
    taken = 0

    def upscaled():
        nonlocal taken
        for frame in FRAMES:
            taken += 1
            yield frame[None]

    writer = VideoWriter(tmp_path / "out.mkv", width=64, height=48, frame_rate=info.frame_rate, source=info)
    before = set(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"cannot write .*out\.mkv from this source: "), writer:
        for piece in upscaled():
            writer.write(piece, [0])
    assert taken == 0
    assert set(tmp_path.iterdir()) == before


def with_captions(path: Path) -> Path:
    """H.264 with a pair of CEA-608 characters in every picture."""
    payload = b"\xb5\x00\x31GA94\x03" + bytes([0x41, 0xFF]) + b"\xfc\x94\x2c" + b"\xff"
    unit = b"\x06\x04" + bytes([len(payload)]) + payload + b"\x80"

    def change(kind, number, packet):
        return replaced(packet, len(unit).to_bytes(4) + unit + bytes(packet))

    return remux(write_video(path.with_name("plain.mp4"), FRAMES, rate=Fraction(25)), path, change)


def test_captions_that_a_codec_does_not_take_are_named(tmp_path, capsys):
    source = with_captions(tmp_path / "in.mp4")
    pass_through(source, tmp_path / "out.mkv", quality=Quality(codec="vp9", preset="veryfast"))
    said = f"note: {source}: captions in the pictures cannot be written with VP9, and are left out; "
    assert said + "--codec hevc keeps them\n" == capsys.readouterr().err


def test_transparency_beside_the_pictures_is_named(tmp_path, capsys):
    source = tmp_path / "in.webm"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.metadata["alpha_mode"] = "1"
        for image in FRAMES:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    pass_through(source, tmp_path / "out.mkv")
    assert "in.webm: transparency is left out" in capsys.readouterr().err


def test_pictures_that_change_their_size_are_named(tmp_path, capsys):
    one = write_video(tmp_path / "one.ts", FRAMES, rate=Fraction(25)).read_bytes()
    two = write_video(tmp_path / "two.ts", moving_frames(10, 96, 64), rate=Fraction(25)).read_bytes()
    (tmp_path / "in.ts").write_bytes(one + two)
    assert open_source(tmp_path / "in.ts").read().shape == (20, 48, 64, 3)
    assert "in.ts: frames differ in size (64x48, 96x64); all are" in capsys.readouterr().err


def test_nothing_narrow_is_written_past_the_memory_of_x265(tmp_path):
    for width in (16, 48, 62, 64):
        quality = Quality(codec="hevc", preset="ultrafast")
        settings = {"width": width, "height": 48, "frame_rate": Fraction(25), "quality": quality}
        with VideoWriter(tmp_path / f"{width}.mp4", **settings) as writer:
            assert ("cutree=0" in writer.encoding.options["x265-params"]) == (width < 64)
            writer.write(FRAMES[:, :, :width])
