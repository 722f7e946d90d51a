"""Marks of a film that only its container holds: 360-degree projections and the layout of stereo pairs.

PyAV cannot set them, but it copies them with a stream, and FFmpeg writes them into Matroska headers. So the
source's marks are read from a header that FFmpeg writes for the source, and put into another header, from which the
output's stream is copied.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import av

from star_jax.video.acm import ebml_header
from star_jax.video.matroska import element, find_elements

TRACK, VIDEO = (0x18538067, 0x1654AE6B, 0xAE), 0xE0
PROJECTION, PROJECTION_TYPE, STEREO_MODE = 0x7670, 0x7671, 0x53B8
CODEC_IDS = {
    "h264": b"V_MPEG4/ISO/AVC",
    "hevc": b"V_MPEGH/ISO/HEVC",
    "av1": b"V_AV1",
    "vp9": b"V_VP9",
}


@dataclass(frozen=True)
class Marks:
    """Matroska elements as (identifier, content)."""

    elements: tuple[tuple[int, bytes], ...] = ()


def video_header(stream: av.VideoStream) -> bytes:
    """The Matroska header that FFmpeg writes for a stream; empty if it cannot write one."""
    with io.BytesIO() as memory:
        try:
            with av.open(memory, "w", format="matroska") as trial:
                trial.add_stream_from_template(stream, opaque=True)
                trial.start_encoding()
        except (av.FFmpegError, ValueError):
            return b""
        return memory.getvalue()


def read_marks(stream: av.VideoStream) -> Marks:
    """Reads the marks of a source's stream."""
    header = video_header(stream)
    found = []
    for identifier in (PROJECTION, STEREO_MODE):
        for content in find_elements(header, (*TRACK, VIDEO, identifier))[:1]:
            # In Matroska, a flat projection means that the picture is rotated, which the reader undoes.
            is_flat = identifier == PROJECTION and not any(
                b"".join(find_elements(content, (PROJECTION_TYPE,)))
            )
            if not is_flat:
                found.append((identifier, content))
    return Marks(tuple(found))


def add_marked_stream(
    output: av.container.OutputContainer, encoder: av.VideoCodecContext, codec: str, marks: Marks
) -> av.VideoStream:
    """Adds a stream with marks to an output, for packets of `encoder`, which is open."""
    video = element(
        VIDEO,
        element(0xB0, encoder.width.to_bytes(4)),
        element(0xBA, encoder.height.to_bytes(4)),
        *(element(identifier, content) for identifier, content in marks.elements),
    )
    track = element(
        0xAE,
        element(0xD7, b"\1"),
        element(0x73C5, b"\1"),
        element(0x83, b"\1"),  # kind: video
        element(0x86, CODEC_IDS[codec]),
        element(0x63A2, encoder.extradata or b""),
        video,
    )
    cluster = element(0x1F43B675, element(0xE7, b"\0"))
    header = ebml_header() + element(0x18538067, element(0x1654AE6B, track), cluster)
    with av.open(io.BytesIO(header)) as template:
        stream = output.add_stream_from_template(template.streams.video[0], opaque=True)
    context = stream.codec_context
    for name in ("width", "height", "pix_fmt", "colorspace", "color_range", "color_primaries", "color_trc"):
        setattr(context, name, getattr(encoder, name))
    context.sample_aspect_ratio = encoder.sample_aspect_ratio
    return stream


def drop_second_marks(path: Path) -> None:
    """Hides one of the two descriptions of a film that FFmpeg writes into MP4.

    Readers use the later one (`vexu`), which has neither the pose nor the layout of stereo pairs.
    """
    with path.open("r+b") as file:
        head = file.read(1 << 22)
        if (at := head.find(b"vexu")) >= 0:
            file.seek(at)
            file.write(b"free")
