"""Coding of pictures: one row per codec, and the choice of depth, pixel format and colour tags.

Eight-bit sources become H.264, deeper ones HEVC with 10 or 12 bits; BT.2020, PQ and HLG are kept, with the data of
the mastering display and the light level.
"""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import av

from star_jax.errors import InputError
from star_jax.video import color
from star_jax.video.probe import VideoInfo

os.environ.setdefault("SVT_LOG", "1")  # errors only; SVT-AV1 reads it at its first use
PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
)
SVT_PRESETS = dict(zip(PRESETS, (12, 11, 10, 9, 8, 6, 4, 3, 2, 1), strict=True))
MAX_CRF = 51
# In narrower frames, the lookahead of x265 4.2 uses blocks that do not exist, and writes past its memory.
_CUTREE_WIDTH = 64
# Code points of primaries and transfer curve without a meaning: unspecified and reserved.
UNKNOWN = {0, 2, 3}


@dataclass(frozen=True)
class Quality:
    """The user's choices; None leaves a choice to `choose_encoding`.

    Raises:
        InputError: a value is unknown or out of range.
    """

    crf: float = 17
    preset: str = "medium"
    codec: str | None = None
    pixel_format: str | None = None
    bit_depth: int | None = None

    def __post_init__(self):
        if self.preset not in PRESETS:
            raise InputError(f"preset {self.preset!r} is unknown; choose one of {', '.join(PRESETS)}")
        if not 0 <= self.crf <= MAX_CRF:
            raise InputError(f"crf is {self.crf}; choose 0 (lossless) to {MAX_CRF} (smallest file)")
        if self.codec is not None and self.codec not in CODECS:
            raise InputError(f"codec is {self.codec!r}; choose one of {', '.join(CODECS)}")
        if self.bit_depth not in (None, 8, 10, 12):
            raise InputError(f"bit depth is {self.bit_depth}; choose 8, 10 or 12")


@dataclass(frozen=True)
class Encoding:
    """Coding of a video.

    Attributes:
        codec: a key of CODECS.
        encoder: FFmpeg's name of the encoder.
        pixel_format: pixel format of the coded pictures.
        bits: bits per sample.
        subsampling: pixels per chroma sample, across and down.
        matrix, color_primaries, color_trc: code points; the range is always limited.
        options: options of the encoder.
        tag: four characters that name the codec in MP4, for codecs where players expect certain ones.
    """

    codec: str
    encoder: str
    pixel_format: str
    bits: int
    subsampling: tuple[int, int]
    matrix: int
    color_primaries: int
    color_trc: int
    options: dict[str, str]
    tag: str | None = None


@dataclass(frozen=True)
class Codec:
    """A row of CODECS: the encoder, its containers, the largest and smallest side in pixels, and its options."""

    title: str
    encoder: str
    containers: tuple[str, ...]
    max_side: int
    options: Callable[[Quality, bool, str | None, str | None], dict[str, str]]
    min_side: int = 1
    tag: str | None = None


def _x264(quality: Quality, has_b_frames: bool, display: str | None, light: str | None) -> dict[str, str]:
    options = {"crf": str(quality.crf), "preset": quality.preset, "a53cc": "1"}
    if not has_b_frames:
        options["bf"] = "0"
    params = [f"mastering-display={display}"] * bool(display) + [f"cll={light}"] * bool(light)
    return options | ({"x264-params": ":".join(params)} if params else {})


def _x265(quality: Quality, has_b_frames: bool, display: str | None, light: str | None) -> dict[str, str]:
    params = ["log-level=error"]
    params += ["bframes=0"] * (not has_b_frames) + ["lossless=1"] * (quality.crf == 0)
    params += [f"master-display={display}"] * bool(display) + [f"max-cll={light}"] * bool(light)
    params += ["hdr10=1", "repeat-headers=1"] * bool(display or light)
    return {
        "crf": str(quality.crf),
        "preset": quality.preset,
        "a53cc": "1",
        "x265-params": ":".join(params),
    }


def _svt_av1(quality: Quality, has_b_frames: bool, display: str | None, light: str | None) -> dict[str, str]:
    del has_b_frames  # AV1's packets are in presentation order
    if display:  # SVT-AV1 expects luminances in nits and chromaticities from 0 to 1
        display = _display_text(display, 50_000, 10_000)
    params = [f"mastering-display={display}"] * bool(display) + [f"content-light={light}"] * bool(light)
    options = {"crf": str(round(quality.crf)), "preset": str(SVT_PRESETS[quality.preset])}
    return options | ({"svtav1-params": ":".join(params)} if params else {})


def _vp9(quality: Quality, has_b_frames: bool, display: str | None, light: str | None) -> dict[str, str]:
    del has_b_frames, display, light
    speed = max(0, 8 - PRESETS.index(quality.preset))
    options = {"crf": str(round(quality.crf)), "b": "0", "cpu-used": str(min(speed, 5)), "row-mt": "1"}
    return options | ({"lossless": "1"} if quality.crf == 0 else {})


def _no_options(
    quality: Quality, has_b_frames: bool, display: str | None, light: str | None
) -> dict[str, str]:
    del quality, has_b_frames, display, light
    return {}


CODECS = {
    "h264": Codec("H.264", "libx264", ("mp4", "mov", "matroska"), 16_384, _x264),
    "hevc": Codec("HEVC", "libx265", ("mp4", "mov", "matroska"), 16_384, _x265, 16, tag="hvc1"),
    "av1": Codec("AV1", "libsvtav1", ("mp4", "matroska"), 16_384, _svt_av1, 32),  # smaller frames may hang it
    "vp9": Codec("VP9", "libvpx-vp9", ("mp4", "matroska"), 65_536, _vp9),
    "prores": Codec("ProRes", "prores_ks", ("mov", "matroska"), 65_535, _no_options),
    "ffv1": Codec("FFV1", "ffv1", ("matroska",), 65_535, _no_options),
}


def choose_encoding(
    quality: Quality, container: str, width: int, height: int, source: VideoInfo | None
) -> Encoding:
    """Chooses codec, depth, pixel format and colour tags.

    Args:
        quality: the user's choices; values that are None follow from the source's depth.
        container: `mp4`, `mov` or `matroska`.
        width, height: size of the frames in pixels.
        source: properties of the input.

    Raises:
        InputError: codec, pixel format, depth and container do not fit together, or the frames are too large or
            too small.
    """
    asked = _format(quality.pixel_format) if quality.pixel_format else None
    deep = max(8, source.bit_depth) if source is not None else 8
    bits = (
        asked.components[0].bits
        if asked
        else quality.bit_depth or (8 if deep == 8 else 10 if deep <= 10 else 12)
    )
    name = quality.codec or ("h264" if bits == 8 else "hevc")
    codec = CODECS[name]
    if container not in codec.containers:
        raise InputError(
            f".{'mkv' if container == 'matroska' else container} cannot hold {codec.title}; choose another "
            f"codec, or write {' or '.join('.mkv' if c == 'matroska' else f'.{c}' for c in codec.containers)}"
        )
    if max(width, height) > codec.max_side:
        raise InputError(
            f"{width}x{height} is too large for {codec.title} (at most {codec.max_side}); lower the scale, or "
            "write to folder/%05d.png"
        )
    if min(width, height) < codec.min_side:
        raise InputError(
            f"{width}x{height} is too small for {codec.title} (at least {codec.min_side}); choose another --codec, "
            "such as h264, or a larger scale"
        )
    known = {fmt.name: fmt for fmt in av.Codec(codec.encoder, "w").video_formats}
    pixel_format = quality.pixel_format or _default_format(known, bits, width % 2 == height % 2 == 0)
    if (
        pixel_format not in known
        or known[pixel_format].is_rgb
        or not pixel_format.startswith(("yuv4", "gray"))
    ):
        planar = [n for n in known if n.startswith("yuv4") or n.startswith("gray")]
        raise InputError(
            f"{codec.title} does not support the pixel format {pixel_format}; choose another codec, or one of "
            f"{', '.join(planar)}"
        )
    if quality.bit_depth is not None and asked is not None and quality.bit_depth != bits:
        raise InputError(
            f"{pixel_format} has {bits} bits, not {quality.bit_depth}; give only one of pixel format and bit depth"
        )
    fmt = known[pixel_format]
    subsampling = (8 // fmt.chroma_width(8), 8 // fmt.chroma_height(8)) if len(fmt.components) > 1 else (1, 1)
    if width % subsampling[0] or height % subsampling[1]:
        raise InputError(
            f"frames are {width}x{height}, but {pixel_format} needs even sizes; choose yuv444p"
            f"{'' if bits == 8 else f'{bits}le'}, or another scale"
        )
    encoding = _with_color(codec, name, quality, pixel_format, bits, subsampling, source)
    if codec.encoder == "libx265" and width < _CUTREE_WIDTH:
        encoding.options["x265-params"] += ":cutree=0"
    return encoding


def _with_color(
    codec: Codec,
    name: str,
    quality: Quality,
    pixel_format: str,
    bits: int,
    subsampling: tuple[int, int],
    source: VideoInfo | None,
) -> Encoding:
    primaries = trc = color.BT709
    display = light = None
    if source is not None:
        primaries = source.color_primaries if source.color_primaries not in UNKNOWN else primaries
        trc = source.color_trc if source.color_trc not in UNKNOWN else trc
        display = mastering_display(source.side_data.get("MASTERING_DISPLAY_METADATA", b""))
        light = light_level(source.side_data.get("CONTENT_LIGHT_LEVEL", b""))
    is_wide = color.BT2020 in (primaries, source.colorspace if source else 0) or trc in (color.PQ, color.HLG)
    # With B-frames, MP4 stores the time from one decoding to the next, but not how long the last frame is shown.
    # The muxer does not learn of reordered frames from a stream that was copied for its marks (see marks.py).
    is_marked = source is not None and bool({"SPHERICAL", "STEREO3D"} & source.side_data.keys())
    has_b_frames = source is None or not (source.is_variable_rate or is_marked)
    return Encoding(
        codec=name,
        encoder=codec.encoder,
        pixel_format=pixel_format,
        bits=bits,
        subsampling=subsampling,
        matrix=color.BT2020 if is_wide else color.BT709,
        color_primaries=primaries,
        color_trc=trc,
        options=codec.options(quality, has_b_frames, display, light),
        tag=codec.tag,
    )


def mastering_display(data: bytes) -> str | None:
    """Converts FFmpeg's AVMasteringDisplayMetadata to x265's text (units: 0.00002 of chromaticity, 0.0001 nits)."""
    if len(data) < 88:
        return None
    numbers = struct.unpack("<20i2i", data[:88])
    if not all(numbers[20:]) or 0 in numbers[1:20:2]:
        return None
    values = [Fraction(numbers[i], numbers[i + 1]) for i in range(0, 20, 2)]
    red, green, blue, white = (tuple(round(v * 50_000) for v in values[i : i + 2]) for i in (0, 2, 4, 6))
    low, high = (round(value * 10_000) for value in values[8:])
    pairs = zip(("G", "B", "R", "WP", "L"), (green, blue, red, white, (high, low)), strict=True)
    return "".join(f"{name}({first},{second})" for name, (first, second) in pairs)


def light_level(data: bytes) -> str | None:
    """Converts FFmpeg's AVContentLightMetadata to "MaxCLL,MaxFALL" in nits."""
    if len(data) < 8:
        return None
    return "{},{}".format(*struct.unpack("<2I", data[:8]))


def _display_text(text: str, chromaticity: int, luminance: int) -> str:
    """Converts x265's text: chromaticities from 0 to 1, luminances in nits."""
    parts = []
    for part in text.split(")")[:-1]:
        name, numbers = part.split("(")
        unit = luminance if name == "L" else chromaticity
        parts.append(f"{name}({','.join(f'{int(number) / unit:.6g}' for number in numbers.split(','))})")
    return "".join(parts)


def _default_format(known: dict[str, av.VideoFormat], bits: int, is_even: bool) -> str:
    """4:2:0 if both sides are even, else 4:4:4, which keeps the size."""
    depth = "" if bits == 8 else f"{bits}le"
    choices = ["yuv420p", "yuv422p", "yuv444p"] if is_even else ["yuv444p"]
    return next((choice + depth for choice in choices if choice + depth in known), choices[-1] + depth)


def _format(name: str) -> av.VideoFormat:
    try:
        return av.VideoFormat(name)
    except ValueError:
        raise InputError(
            f"pixel format {name!r} is unknown; give one such as yuv420p or yuv420p10le"
        ) from None
