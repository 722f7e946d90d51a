"""Colours and depth: what is kept, what is chosen, and what is refused."""

import av
import numpy as np
import pytest
from color_patches import CENTRES, HEIGHT, PATCH, WIDTH, coded, levels, patches, write
from sample_videos import packets, pass_through

from star_jax.errors import InputError
from star_jax.video.encoders import Quality, choose_encoding
from star_jax.video.images import open_source
from star_jax.video.reader import VideoReader


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_decoding_times_of_a_few_frames(tmp_path, count):
    source = write(tmp_path / "in.mkv", patches()[:count], encoder="ffv1", pix_fmt="yuv420p10le", matrix=1)
    for _ in range(5):  # x265 reads them from memory that it never set, which mostly holds zeros
        out = pass_through(source, tmp_path / "out.mov")
        times = [(pts, dts) for pts, dts, _ in packets(out, "video")]
        assert len(times) == count and all(dts <= pts for pts, dts in times)
        assert [dts for _, dts in times] == sorted({dts for _, dts in times})
        assert max(pts for pts, _ in times) - times[0][1] < 1 << 20
        out.unlink()


@pytest.mark.parametrize(
    ("codec", "suffix"), [(None, ".mp4"), (None, ".mkv"), ("av1", ".mp4"), ("h264", ".mkv")]
)
@pytest.mark.parametrize("curve", [16, 18])
def test_high_dynamic_range_stays(tmp_path, codec, suffix, curve):
    rgb = patches(4)
    source = write(
        tmp_path / "in.mp4",
        rgb,
        encoder="libx265",
        pix_fmt="yuv420p10le",
        matrix=9,
        color_primaries=9,
        color_trc=curve,
    )
    out = pass_through(
        source, tmp_path / f"out{suffix}", quality=Quality(crf=2, preset="ultrafast", codec=codec)
    )
    with av.open(str(out)) as container:
        frame = next(container.decode(video=0))
        assert container.streams.video[0].codec_context.codec.canonical_name == (codec or "hevc")
    tags = (frame.format.name, frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range)
    assert tags == ("yuv420p10le", 9, 9, curve, 1)
    assert np.abs(coded(frame) - levels(rgb[0], 9, False, 10)).mean() < 3


def test_mastering_and_light_level_data(tmp_path):
    display = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    params = f"log-level=error:master-display={display}:max-cll=1000,400:hdr10=1"
    source = tmp_path / "in.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream(
            "libx265", rate=25, options={"x265-params": params, "preset": "ultrafast"}
        )
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p10le"
        stream.codec_context.colorspace, stream.codec_context.color_trc = 9, 16
        stream.codec_context.color_primaries = 9
        for i in range(3):
            frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p10le")
            for plane in frame.planes:
                plane.update(np.full(plane.buffer_size // 2, 512, np.uint16))
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    from star_jax.video.encoders import light_level, mastering_display

    for codec in (None, "av1"):
        out = pass_through(source, tmp_path / "out.mkv", quality=Quality(codec=codec, preset="ultrafast"))
        data = VideoReader(out).info.side_data
        assert light_level(data["CONTENT_LIGHT_LEVEL"]) == "1000,400"
        found = mastering_display(data["MASTERING_DISPLAY_METADATA"])
        numbers = [[int(n) for n in part.split("(")[1].split(",")] for part in found.split(")")[:-1]]
        expected = [[int(n) for n in part.split("(")[1].split(",")] for part in display.split(")")[:-1]]
        for ours, theirs in zip(numbers, expected, strict=True):
            assert ours == pytest.approx(theirs, abs=5)


def test_untagged_hd_is_bt709_and_sd_bt601(tmp_path):
    from star_jax.video.color import matrix_of

    assert [matrix_of(2, *size) for size in ((64, 720), (1280, 100), (720, 576), (640, 480))] == [1, 1, 6, 6]
    assert matrix_of(5, 1920, 1080) == 5


def test_stripes_of_untagged_hd_keep_the_colours_that_players_show(tmp_path):
    stripes = np.random.default_rng(1).uniform(0.1, 0.9, (6, 3))
    coded_as_709 = levels(stripes[None, None], 1, False, 8)[:, 0, 0].astype(np.uint8)
    with av.open(str(tmp_path / "in.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 720, "yuv444p"
        frame = av.VideoFrame(64, 720, "yuv444p")
        for plane, values in zip(frame.planes, coded_as_709, strict=True):
            rows = np.zeros((720, plane.line_size), np.uint8)
            rows[:, :64] = values.repeat(120)[:, None]
            plane.update(rows)
        container.mux([*stream.encode(frame), *stream.encode(None)])
    assert open_source(tmp_path / "in.mkv").info.colorspace == 2
    out = pass_through(tmp_path / "in.mkv", tmp_path / "out.mp4", crf=0)
    with av.open(str(out)) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range) == (1, 1)
        luma = np.frombuffer(frame.planes[0], np.uint8).reshape(720, -1)[60::120, 32].astype(int)
        assert np.abs(luma - coded_as_709[0]).max() <= 1
    assert np.abs(open_source(out).read()[0, 60::120, 32] - 255 * stripes).max() <= 3


def test_ycgco(tmp_path):
    """Y = (R + 2 G + B) / 4, Cg = (-R + 2 G - B) / 4, Co = (R - B) / 2, in H.264's limited range."""
    rgb = patches(2)
    red, green, blue = np.moveaxis(rgb, -1, 0)
    planes = np.stack([(red + 2 * green + blue) / 4, (-red + 2 * green - blue) / 4, (red - blue) / 2])
    coded_levels = np.round(
        planes * np.array([219, 224, 224])[:, None, None, None]
        + np.array([16, 128, 128])[:, None, None, None]
    )
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv444p"
        stream.codec_context.colorspace, stream.codec_context.color_range = 8, 1
        for i in range(2):
            frame = av.VideoFrame(WIDTH, HEIGHT, "yuv444p")
            for plane, values in zip(frame.planes, coded_levels[:, i], strict=True):
                rows = np.zeros((plane.height, plane.line_size), np.uint8)
                rows[:, :WIDTH] = values.repeat(PATCH, 0).repeat(PATCH, 1)
                plane.update(rows)
            frame.pts, frame.colorspace = i, 8
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found = open_source(path).read()[(slice(None), *CENTRES)]
    assert np.abs(found / 255 - rgb).max() <= 2 / 255


@pytest.mark.parametrize(("tag", "name"), [(10, "BT.2020 constant luminance"), (14, "ICtCp")])
def test_matrices_that_are_no_sums_of_rgb_are_named(tmp_path, tag, name):
    path = write(tmp_path / "in.mkv", patches(1), encoder="libx264", pix_fmt="yuv420p", matrix=9, tag=tag)
    with pytest.raises(InputError, match=f"has the colour matrix {name}.*convert it first"):
        open_source(path)


def interlace(frames: np.ndarray) -> np.ndarray:
    """Even lines of one moment and odd lines of the next."""
    woven = frames[::2].copy()
    woven[:, 1::2] = frames[1::2, 1::2]
    return woven


@pytest.mark.parametrize(
    ("choice", "is_flagged", "combs"),
    [("auto", True, False), ("auto", False, True), ("on", False, False), ("off", True, True)],
)
def test_interlaced_pictures_are_made_whole(tmp_path, choice, is_flagged, combs):
    bar = np.zeros((20, 48, 64, 3), np.uint8)
    for number, frame in enumerate(bar):
        frame[:, 4 + 2 * number : 14 + 2 * number] = 255
    flags = {"x264-params": "tff=1"} if is_flagged else {}
    path = tmp_path / "in.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "2", **flags})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for image in interlace(bar):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    reader = open_source(path, deinterlace=choice)
    frames = np.concatenate([part for part, _ in reader.chunks(4)]).astype(int)
    assert len(frames) == 10
    luma = frames.mean(-1)
    comb = np.abs(luma[:, 1:-1] - (luma[:, :-2] + luma[:, 2:]) / 2).mean()
    assert (comb > 4) == combs


@pytest.mark.parametrize(
    ("quality", "suffix", "message"),
    [
        ({"codec": "h263"}, ".mp4", "codec is 'h263'; choose one of h264, hevc, av1"),
        ({"codec": "prores"}, ".mp4", r"\.mp4 cannot hold ProRes; .* write .mov or .mkv"),
        (
            {"codec": "h264", "pixel_format": "yuv420p12le"},
            ".mp4",
            "H.264 does not support the pixel format yuv420p12le",
        ),
        ({"pixel_format": "what"}, ".mp4", "pixel format 'what' is unknown"),
        ({"bit_depth": 9}, ".mp4", "bit depth is 9; choose 8, 10 or 12"),
        ({"bit_depth": 8, "pixel_format": "yuv420p10le"}, ".mp4", "has 10 bits, not 8"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, quality, suffix, message):
    source = write(tmp_path / "in.mp4", patches(2), encoder="libx264", pix_fmt="yuv420p", matrix=1)
    with pytest.raises(InputError, match=message):
        pass_through(source, tmp_path / f"out{suffix}", quality=Quality(**quality))
    assert not (tmp_path / f"out{suffix}").exists()


@pytest.mark.parametrize(
    ("codec", "suffix", "pixel_format"),
    [
        ("vp9", ".mkv", None),
        ("prores", ".mov", None),
        ("ffv1", ".mkv", "yuv444p16le"),
        ("av1", ".mkv", None),
        ("hevc", ".mov", "yuv422p12le"),
    ],
)
def test_codecs_that_can_be_chosen(tmp_path, codec, suffix, pixel_format):
    rgb = patches(3)
    source = write(tmp_path / "in.mp4", rgb, encoder="libx265", pix_fmt="yuv420p10le", matrix=1)
    quality = Quality(
        crf=4,
        preset="ultrafast",
        codec=codec,
        pixel_format=pixel_format,
        bit_depth=None if pixel_format or codec == "prores" else 8 if codec == "vp9" else None,
    )
    out = pass_through(source, tmp_path / f"out{suffix}", quality=quality)
    found = open_source(out, depth=None).read()[(slice(None), *CENTRES)]
    assert np.abs(found / np.iinfo(found.dtype).max - rgb).mean() < 0.01


@pytest.mark.parametrize("codec", ["hevc", "av1"])
def test_frames_too_small_for_a_codec_are_refused_in_the_users_terms(tmp_path, codec):
    source = write(tmp_path / "in.mp4", patches(2), encoder="libx264", pix_fmt="yuv420p", matrix=1)
    info = open_source(source).info
    with pytest.raises(InputError, match=r"96x8 is too small for .* choose another --codec"):
        choose_encoding(Quality(codec=codec), "matroska", 96, 8, info)
