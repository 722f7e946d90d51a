"""Plans what happens to every track of a source except the film: it is kept, or left out with a note of the reason.

`plan_tracks` decides by trying the output's muxer; streams.py carries out the plan.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import av
from av.stream import Disposition

from star_jax.errors import InputError
from star_jax.video.acm import takes_acm
from star_jax.video.container import NO_FILM, film_stream, open_container
from star_jax.video.marks import CODEC_IDS
from star_jax.video.notes import note
from star_jax.video.probe import VideoInfo
from star_jax.video.subtitles import TEXT_CODECS

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
COVER_TYPES = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}
# Streams that repeat information in another form (MP4's chapter titles and timecode), or that have no meaning
# outside of their disc (a DVD's navigation).
REPEATED = {"bin_data", "tmcd", "dvd_nav_packet"}
USUAL_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
# Side data that is carried over, or that describes coded data, which is made anew.
HANDLED_SIDE_DATA = {
    "DISPLAYMATRIX",
    "SEI_UNREGISTERED",
    "A53_CC",
    "MASTERING_DISPLAY_METADATA",
    "CONTENT_LIGHT_LEVEL",
    "SPHERICAL",
    "STEREO3D",
    "VIDEO_ENC_PARAMS",
    "MOTION_VECTORS",
    "GOP_TIMECODE",
    "S12M_TIMECODE",
    "FILM_GRAIN_PARAMS",
    "ICC_PROFILE",
    "REGIONS_OF_INTEREST",
    "VIDEO_HINT",
    "AFD",
    "PANSCAN",
}
# Marks of tracks that a container cannot store.
UNMARKED = {
    "mp4": Disposition.original | Disposition.lyrics | Disposition.karaoke,
    "mov": ~(Disposition.default | Disposition.attached_pic),
    "matroska": Disposition.lyrics | Disposition.karaoke | Disposition.captions | Disposition.descriptions,
}
# Kinds of side data, the codecs that can write them, and their name.
PICTURE_DATA = (
    ({"A53_CC"}, {"h264", "hevc"}, "captions in the pictures"),
    (
        {"MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"},
        {"h264", "hevc", "av1"},
        "mastering display and light levels",
    ),
    ({"SPHERICAL", "STEREO3D"}, CODEC_IDS.keys(), "marks of a 360-degree or stereo film"),
)
SIDE_DATA_NAMES = {
    "DYNAMIC_HDR_PLUS": "HDR10+ data of each frame",
    "DOVI_METADATA": "Dolby Vision data (the base layer is kept)",
    "DOVI_RPU_BUFFER": "Dolby Vision data (the base layer is kept)",
    "DYNAMIC_HDR_VIVID": "HDR Vivid data of each frame",
    "AMBIENT_VIEWING_ENVIRONMENT": "the ambient viewing environment",
}


@dataclass(frozen=True)
class Track:
    """Plan for one stream of the source.

    Attributes:
        index: index of the stream.
        fate: `copy`, `convert` (text subtitles), `acm` (Windows sound in Matroska), `attach` (a cover), or `drop`.
        reason: reason for dropping it, or "" for a drop that needs no note.
    """

    index: int
    fate: str
    reason: str = ""


def plan_tracks(container: av.container.InputContainer, target: str, film: int) -> list[Track]:
    """Plans every stream except the film.

    Args:
        container: the source.
        target: `mp4`, `mov` or `matroska`.
        film: index of the stream that is upscaled.
    """
    return [_plan(stream, target) for stream in container.streams if stream.index != film]


def check_streams(path: Path, source: VideoInfo) -> None:
    """Notes the parts of `source` that the container of `path` cannot hold.

    Raises:
        InputError: the container cannot hold the sound.
    """
    target = FORMATS[path.suffix.lower()]
    with open_container(source.path) as container:
        film = film_stream(container)
        for track in plan_tracks(container, target, film.index):
            stream = container.streams[track.index]
            if track.fate != "drop":
                if lost := stream.disposition & UNMARKED[target]:
                    note(
                        f"{source.path}: {path.suffix} cannot store the mark {lost.name} of track {track.index}"
                    )
                continue
            if stream.type == "audio":
                raise InputError(_sound_refusal(path, source.path, stream, target))
            if track.reason:
                note(f"{source.path}: {track.reason}")
    for kind in sorted(source.side_data.keys() - HANDLED_SIDE_DATA):
        if kind in SIDE_DATA_NAMES:
            note(f"{source.path}: {SIDE_DATA_NAMES[kind]} cannot be carried over, and is left out")
    if source.has_alpha:
        note(f"{source.path}: transparency is left out, because {path.suffix} is written without it")


def note_codec(source: VideoInfo, codec: str, title: str) -> None:
    """Notes the side data of pictures that an encoder cannot write."""
    for kinds, codecs, name in PICTURE_DATA:
        if kinds & source.side_data.keys() and codec not in codecs:
            note(
                f"{source.path}: {name} cannot be written with {title}, and are left out; --codec hevc keeps them"
            )


def note_pictures(path: Path, source: VideoInfo) -> None:
    """Notes the properties of images that a video cannot hold."""
    if source.has_alpha:
        remedy = "write .png" if source.pictures else "write folder/%05d.png"
        note(f"{source.path}: transparency is left out; {remedy} to keep it")
    if source.has_profile:
        note(f"{source.path}: {path.suffix} cannot hold the colour profile; write .png to keep it")


def _plan(stream: av.stream.Stream, target: str) -> Track:
    index, title = stream.index, _title(stream)
    suffix = next(suffix for suffix, name in FORMATS.items() if name == target)
    if stream.type == "video":
        if not stream.disposition & NO_FILM:
            size = (
                f"{stream.codec_context.width}x{stream.codec_context.height}"
                if stream.codec_context
                else "unknown"
            )
            return Track(index, "drop", f"video stream {index} ({size}) of several is left out")
        if (
            target == "matroska"
            and stream.codec_context is not None
            and stream.codec_context.name in COVER_TYPES
        ):
            return Track(index, "attach")
        # QuickTime's muxer accepts a cover, but does not write it.
        kept = target == "mp4" and _takes(stream, target)
        return (
            Track(index, "copy") if kept else Track(index, "drop", f"{suffix} cannot hold the cover picture")
        )
    if stream.type == "data" and (stream.name in REPEATED or "timecode" in stream.metadata):
        return Track(index, "drop")
    if stream.type == "attachment" and target == "matroska":
        return Track(index, "copy")
    if stream.type in ("audio", "subtitle", "data") and _takes(stream, target):
        return Track(index, "copy")
    if (
        stream.type == "subtitle"
        and stream.codec_context is not None
        and stream.codec_context.name in TEXT_CODECS
    ):
        return Track(index, "convert")
    if stream.type == "audio" and target == "matroska" and takes_acm(stream):
        return Track(index, "acm")
    remedy = "; .mkv keeps it" if target != "matroska" and _kept_by_matroska(stream) else ""
    return Track(index, "drop", f"{title} cannot be carried over, and is left out{remedy}")


def _kept_by_matroska(stream: av.stream.Stream) -> bool:
    return stream.type != "data" and _plan(stream, "matroska").fate != "drop"


def _title(stream: av.stream.Stream) -> str:
    """Description of a stream for the user."""
    codec = _codec(stream)
    language = stream.metadata.get("language")
    name = f" ({language})" if language and language != "und" else ""
    kinds = {
        "subtitle": f"{codec} subtitles",
        "attachment": f"the attachment {codec}",
        "data": f"the {codec} data",
    }
    return kinds.get(stream.type, f"the {stream.type} stream {stream.index} ({codec})") + name


def _codec(stream: av.stream.Stream) -> str:
    """Name of a stream's codec, or `unknown` if FFmpeg does not know it."""
    context = stream.codec_context
    return (context.name if context is not None else getattr(stream, "name", None)) or "unknown"


def add_copy(stream: av.stream.Stream, output: av.container.OutputContainer) -> av.stream.Stream:
    """Adds a stream to an output for unchanged packets of another stream."""
    copy = output.add_stream_from_template(stream, opaque=True)
    if (
        stream.type == "audio"
        and stream.codec_context is not None
        and stream.layout.name.endswith("channels")
    ):
        # WAV and AVI only have the number of channels; MP4 needs their layout.
        layout = USUAL_LAYOUTS.get(stream.layout.nb_channels)
        if layout is not None:
            copy.codec_context.layout = layout
    return copy


def _takes(stream: av.stream.Stream, target: str) -> bool:
    """Whether a container can hold a stream unchanged, which the muxer checks when it writes a header."""
    with io.BytesIO() as memory:
        try:
            with av.open(memory, "w", format=target) as trial:
                copy = add_copy(stream, trial)
                copy.disposition = stream.disposition & ~Disposition.attached_pic
                trial.start_encoding()
        except (av.FFmpegError, ValueError):
            return False
    return True


def _sound_refusal(path: Path, source: Path, stream: av.stream.Stream, target: str) -> str:
    codec = _codec(stream)
    convert = f"convert the sound first: ffmpeg -i {source.name} -c:v copy -c:a aac converted.mkv"
    by_mkv = target != "matroska" and (_takes(stream, "matroska") or takes_acm(stream))
    remedy = f"write .mkv, or {convert}" if by_mkv else convert
    return f"{path.suffix} cannot hold the {codec} sound of {source}; {remedy}"
