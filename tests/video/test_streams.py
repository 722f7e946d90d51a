"""Everything that is not the picture is kept, or one line says what is left out and why."""

import struct
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from av.stream import Disposition
from sample_videos import (
    moving_frames,
    packets,
    pass_through,
    remux,
    replaced,
    shown,
    sound_times,
    write_video,
)

from star_jax.errors import InputError
from star_jax.video.images import open_source
from star_jax.video.matroska import element, find_elements
from star_jax.video.subtitles import ASS_HEADER

FRAMES = moving_frames(10, 64, 48)
MILLISECOND = Fraction(1, 1000)


def with_extras(source: Path, target: Path, add, after=None) -> Path:
    """A copy of a file to whose container `add(container)` adds something before, `after(container)` after."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        streams = {stream.index: new.add_stream_from_template(stream, opaque=True) for stream in old.streams}
        added = add(new)
        for packet in old.demux():
            if packet.size:
                packet.stream = streams[packet.stream_index]
                new.mux(packet)
        if after is not None:
            after(new, added)
    return target


def add_text(codec: str, language: str):
    def add(container):
        stream = container.add_stream(codec)
        stream.codec_context.subtitle_header = ASS_HEADER
        stream.metadata["language"] = language
        return stream

    return add


def two_lines(container, stream) -> None:
    for start, duration, text in ((80, 120, b"Guten Tag"), (240, 100, b"Auf Wiedersehen")):
        name = stream.codec_context.name
        data = struct.pack(">H", len(text)) + text if name == "mov_text" else text
        if name == "ass":
            data = b"0,0,Default,,0,0,0,," + text
        packet = av.Packet(data)
        packet.stream, packet.time_base, packet.duration = stream, MILLISECOND, duration
        packet.pts = packet.dts = start
        container.mux(packet)


def with_picture_elements(plain: Path, target: Path, more: bytes) -> Path:
    """A copy of a Matroska file with more elements in the description of its picture."""
    data = plain.read_bytes()
    (tracks,) = find_elements(data, (0x18538067, 0x1654AE6B))
    picture, *others = find_elements(tracks, (0xAE,))
    (video,) = find_elements(picture, (0xE0,))
    at = picture.index(video)
    # Sizes of the elements around grow, so that these are written anew.
    entry = (
        picture[: picture.rindex(b"\xe0", 0, at)] + element(0xE0, video, more) + picture[at + len(video) :]
    )
    new = element(0x1654AE6B, element(0xAE, entry), *(element(0xAE, other) for other in others))
    segment = data.index(b"\x18\x53\x80\x67")
    end = data.index(tracks) + len(tracks)
    target.write_bytes(data[:segment] + b"\x18\x53\x80\x67\x01" + b"\xff" * 7 + new + data[end:])
    return target


def texts(path: Path) -> list[tuple[float, float, str]]:
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[0]
        found = []
        for packet in container.demux(stream):
            if packet.size > 2:
                data = bytes(packet)
                text = (
                    data[2 : 2 + int.from_bytes(data[:2])]
                    if stream.codec_context.name == "mov_text"
                    else data
                )
                times = float(packet.pts * packet.time_base), float(packet.duration * packet.time_base)
                found.append((*times, text.decode().split(",,")[-1]))
        return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("plain") / "plain.mkv", FRAMES, rate=Fraction(25), audio="aac")


@pytest.mark.parametrize(
    ("codec", "source", "target", "expected"),
    [
        ("subrip", ".mkv", ".mp4", "mov_text"),
        ("subrip", ".mkv", ".mov", "mov_text"),
        ("subrip", ".mkv", ".mkv", "subrip"),
        ("ass", ".mkv", ".mp4", "mov_text"),
        ("ass", ".mkv", ".mkv", "ass"),
        ("webvtt", ".mkv", ".mp4", "mov_text"),
        ("mov_text", ".mp4", ".mkv", "subrip"),
        ("mov_text", ".mp4", ".mp4", "mov_text"),
    ],
)
def test_text_subtitles_have_a_form_in_every_container(
    tmp_path, plain, capsys, codec, source, target, expected
):
    clip = with_extras(plain, tmp_path / f"in{source}", add_text(codec, "ger"), two_lines)
    out = pass_through(clip, tmp_path / f"out{target}")
    with av.open(str(out)) as container:
        stream = container.streams.subtitles[0]
        assert stream.codec_context.codec.canonical_name.replace("ssa", "ass") == expected
        assert stream.metadata["language"] == "ger"
    before, after = texts(clip), texts(out)
    assert [text.strip() for *_, text in after] == ["Guten Tag", "Auf Wiedersehen"]
    shift = open_source(out).info.start_time - open_source(clip).info.start_time  # all begins at 0
    expected_times = [(start + float(shift), length) for start, length, _ in before]
    assert np.array([times for *times, _ in after]) == pytest.approx(np.array(expected_times), abs=2e-3)
    assert "left out" not in capsys.readouterr().err


def test_fonts_go_with_matroska_and_are_named_otherwise(tmp_path, plain, capsys):
    def add(container):
        container.add_attachment("font.ttf", "application/x-truetype-font", b"no real font")

    clip = with_extras(plain, tmp_path / "in.mkv", add)
    with av.open(str(pass_through(clip, tmp_path / "out.mkv"))) as container:
        (font,) = (s for s in container.streams if s.type == "attachment")
        assert (font.name, font.mimetype, font.data) == (
            "font.ttf",
            "application/x-truetype-font",
            b"no real font",
        )
    assert "font" not in capsys.readouterr().err
    pass_through(clip, tmp_path / "out.mp4")
    assert (
        capsys.readouterr().err
        == f"note: {clip}: the attachment font.ttf cannot be carried over, and is left out; .mkv keeps it\n"
    )


@pytest.mark.parametrize("target", [".mp4", ".mkv"])
def test_titles_languages_flags_and_dates_of_every_track(tmp_path, plain, target, capsys):
    with av.open(str(plain)) as old, av.open(str(tmp_path / "in.mkv"), "w") as new:
        new.metadata.update(
            title="Holiday", creation_time="2015-06-07T08:09:10Z", comment="A note", camera="X1"
        )
        streams = {stream.index: new.add_stream_from_template(stream, opaque=True) for stream in old.streams}
        streams[0].metadata.update(language="jpn", title="Main picture")
        streams[1].metadata.update(language="fre", title="Commentary")
        streams[1].disposition = Disposition.comment
        for packet in old.demux():
            if packet.size:
                packet.stream = streams[packet.stream_index]
                new.mux(packet)
    out = pass_through(tmp_path / "in.mkv", tmp_path / f"out{target}")
    with av.open(str(out)) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
        picture, sound = container.streams.video[0], container.streams.audio[0]
        assert tags["title"] == "Holiday" and tags["comment"] == "A note" and tags["camera"] == "X1"
        assert tags["creation_time"].startswith("2015-06-07T08:09:10")
        assert (picture.metadata["language"], sound.metadata["language"]) == ("jpn", "fre")
        assert "Main picture" in picture.metadata.values() and "Commentary" in sound.metadata.values()
        assert sound.disposition & Disposition.comment
    pass_through(out, tmp_path / "out.mov")
    assert f"note: {out}: .mov cannot store the mark comment of track 1\n" in capsys.readouterr().err
    with av.open(str(tmp_path / "out.mov")) as container:
        assert container.streams.audio[0].metadata["language"] == "fra"  # the same, for QuickTime
    again = pass_through(out, tmp_path / "again.mp4")
    with av.open(str(again)) as container:
        assert "Main picture" in container.streams.video[0].metadata.values()
        assert "Commentary" in container.streams.audio[0].metadata.values()


@pytest.mark.parametrize(("language", "written"), [("swe", "sve"), ("hrv", None)])
def test_languages_that_quicktime_knows_by_another_code_or_not(tmp_path, plain, language, written, capsys):
    with av.open(str(plain)) as old, av.open(str(tmp_path / "in.mkv"), "w") as new:
        streams = {stream.index: new.add_stream_from_template(stream, opaque=True) for stream in old.streams}
        streams[1].metadata["language"] = language
        for packet in old.demux():
            if packet.size:
                packet.stream = streams[packet.stream_index]
                new.mux(packet)
    pass_through(tmp_path / "in.mkv", tmp_path / "out.mov")
    assert ("no code for language hrv" in capsys.readouterr().err) == (written is None)
    with av.open(str(tmp_path / "out.mov")) as container:
        assert container.streams.audio[0].metadata.get("language") == written


@pytest.mark.parametrize("target", [".mp4", ".mkv"])
def test_cover_pictures(tmp_path, plain, target):
    picture = cv2.imencode(".png", FRAMES[0])[1].tobytes()
    still = tmp_path / "still.png"
    still.write_bytes(picture)
    with (
        av.open(str(still)) as image,
        av.open(str(plain)) as old,
        av.open(str(tmp_path / "in.mp4"), "w") as new,
    ):
        streams = {stream.index: new.add_stream_from_template(stream, opaque=True) for stream in old.streams}
        cover = new.add_stream_from_template(image.streams.video[0], opaque=True)
        cover.disposition = Disposition.attached_pic
        packet = next(image.demux())
        packet.stream = cover
        new.mux(packet)
        for packet in old.demux():
            if packet.size:
                packet.stream = streams[packet.stream_index]
                new.mux(packet)
    out = pass_through(tmp_path / "in.mp4", tmp_path / f"out{target}")
    assert len(shown(out)) == 10
    with av.open(str(out)) as container:
        (cover,) = (s for s in container.streams.video if s.disposition & Disposition.attached_pic)
        assert next(bytes(p) for p in container.demux(cover) if p.size) == picture


def test_mp4_takes_a_cover_or_free_tags(tmp_path, plain, capsys):
    cv2.imwrite(str(tmp_path / "cover.png"), FRAMES[0])
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", plain, "-map", "0", "-c", "copy"]
    command += [
        "-metadata",
        "camera=X1",
        "-attach",
        tmp_path / "cover.png",
        "-metadata:s:t",
        "mimetype=image/png",
    ]
    subprocess.run(list(map(str, [*command, tmp_path / "in.mkv"])), check=True)
    with av.open(str(pass_through(tmp_path / "in.mkv", tmp_path / "out.mp4"))) as container:
        covers = [bool(s.disposition & Disposition.attached_pic) for s in container.streams.video]
        assert covers == [False, True]
    assert "the tags CAMERA cannot be combined with a cover picture, and are" in capsys.readouterr().err
    pass_through(tmp_path / "in.mkv", tmp_path / "out.mov")
    assert ".mov cannot hold the cover picture" in capsys.readouterr().err


def test_captions_in_the_pictures(tmp_path):
    """CEA-608 pairs of characters, as broadcasts carry them in H.264's supplemental information."""
    pair = b"\xfc\x94\x2c"

    def change(kind, number, packet):
        payload = b"\xb5\x00\x31GA94\x03" + bytes([0x41, 0xFF]) + pair + b"\xff"
        unit = b"\x06\x04" + bytes([len(payload)]) + payload + b"\x80"
        return replaced(packet, len(unit).to_bytes(4) + unit + bytes(packet))

    plain = write_video(tmp_path / "plain.mp4", FRAMES, rate=Fraction(25))
    source = remux(plain, tmp_path / "in.mp4", change)
    for name, options in (("out.mp4", {}), ("out.mkv", {})):
        out = pass_through(source, tmp_path / name, scale=2, **options)
        with av.open(str(out)) as container:
            captions = [
                bytes(data)
                for f in container.decode(video=0)
                for data in f.side_data
                if data.type.name == "A53_CC"
            ]
        assert captions == [pair] * 10
    assert (
        np.abs(
            open_source(out).read().astype(int) - open_source(source).read().repeat(2, 1).repeat(2, 2)
        ).mean()
        < 3
    )


def test_timecode(tmp_path):
    source = tmp_path / "in.mov"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.metadata["timecode"] = "10:20:30:05"
        for image in FRAMES:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    for target in (".mov", ".mp4", ".mkv"):
        with av.open(str(pass_through(source, tmp_path / f"out{target}"))) as container:
            tags = {key.lower(): value for key, value in container.streams.video[0].metadata.items()}
            assert tags["timecode"] == "10:20:30:05"


def test_360_degree_marks(tmp_path):
    """An equirectangular film, turned by 30 degrees, in two eyes one above the other."""
    projection = element(
        0x7670, element(0x7671, b"\1"), element(0x7672, bytes(20)), element(0x7673, struct.pack(">f", 30))
    )
    plain = write_video(tmp_path / "plain.mkv", FRAMES, rate=Fraction(25), audio="aac")
    source = with_picture_elements(plain, tmp_path / "in.mkv", projection + element(0x53B8, b"\3"))

    def marks(path):
        with av.open(str(path)) as container:
            data = next(container.decode(video=0)).side_data
            return {d.type.name: bytes(d) for d in data if d.type.name in ("SPHERICAL", "STEREO3D")}

    assert marks(source).keys() == {"SPHERICAL", "STEREO3D"}
    for target in (".mp4", ".mkv"):
        out = pass_through(source, tmp_path / f"out{target}", scale=2)
        found = marks(out)
        assert found["SPHERICAL"] == marks(source)["SPHERICAL"]
        assert found["STEREO3D"][:4] == marks(source)["STEREO3D"][:4]
        assert len(shown(out)) == 10


def test_windows_sound_goes_into_matroska(tmp_path, plain):
    source = write_video(tmp_path / "in.wmv", FRAMES, codec="wmv2", rate=Fraction(25), audio="wmav2")
    out = pass_through(source, tmp_path / "out.mkv")
    assert [data for *_, data in packets(out)] == [data for *_, data in packets(source)]
    assert np.subtract(sound_times(out), sound_times(source)) == pytest.approx(0, abs=2e-3)
    with av.open(str(source)) as before, av.open(str(out)) as after:
        assert after.streams.audio[0].codec_context.name == "wmav2"
        decoded = [np.concatenate([f.to_ndarray() for f in c.decode(audio=0)], -1) for c in (before, after)]
    np.testing.assert_array_equal(*decoded)
    with pytest.raises(InputError, match=r"\.mp4 cannot hold the wmav2 sound of .*; write \.mkv, or"):
        pass_through(source, tmp_path / "out.mp4")


def test_the_default_picture_is_taken_and_the_other_named(tmp_path, capsys):
    small = write_video(tmp_path / "small.mkv", moving_frames(10, 32, 24), rate=Fraction(25))
    large = write_video(tmp_path / "large.mkv", FRAMES, rate=Fraction(25))
    for name, flagged in (("small_default.mkv", 0), ("large_default.mkv", 1), ("none.mkv", None)):
        with (
            av.open(str(small)) as one,
            av.open(str(large)) as two,
            av.open(str(tmp_path / name), "w") as new,
        ):
            streams = [new.add_stream_from_template(c.streams.video[0], opaque=True) for c in (one, two)]
            for number, stream in enumerate(streams):
                stream.disposition = Disposition.default if number == flagged else Disposition(0)
            for container, stream in zip((one, two), streams, strict=True):
                for packet in container.demux(video=0):
                    if packet.size:
                        packet.stream = stream
                        new.mux(packet)
        out = pass_through(tmp_path / name, tmp_path / "out.mp4")
        left_out = 1 if flagged == 0 else 0
        assert open_source(out).info.width == (32 if flagged == 0 else 64)
        assert f"video stream {left_out} (" in capsys.readouterr().err


def test_the_containers_crop_is_applied(tmp_path):
    plain = write_video(tmp_path / "plain.mkv", moving_frames(6, 64, 64), rate=Fraction(25))
    crop = element(0x54BB, b"\x08") + element(0x54AA, b"\x08") + element(0x54CC, b"\x04")
    source = with_picture_elements(plain, tmp_path / "in.mkv", crop)
    whole = open_source(tmp_path / "plain.mkv").read()
    reader = open_source(source)
    assert (reader.info.height, reader.info.width) == (48, 60)
    np.testing.assert_array_equal(reader.read(), whole[:, 8:56, 4:])
