"""Everything that is not the picture: it is kept, or one line names it and the reason for leaving it out.

`plan_tracks` decides for every stream of a source, by asking the output's own muxer; `StreamCopier` carries it out,
packet by packet.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from star_jax.errors import InputError
from star_jax.video.acm import AcmTrack, takes_acm
from star_jax.video.container import NO_FILM, film_stream, open_container
from star_jax.video.marks import Marks, read_marks
from star_jax.video.notes import note
from star_jax.video.packets import Clock, is_empty
from star_jax.video.probe import VideoInfo
from star_jax.video.subtitles import TEXT_CODECS, TextConverter
from star_jax.video.tags import kept_tags, needs_free_keys, timecode

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
COVER_TYPES = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}
# Streams that repeat kept information in another form: MP4's chapter titles and its timecode.
REPEATED = {"bin_data", "tmcd"}
USUAL_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
# Side data that is carried, or that describes data that is made anew.
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
        reason: reason for dropping it.
    """

    index: int
    fate: str
    reason: str = ""


def plan_tracks(container: av.container.InputContainer, target: str, film: int) -> list[Track]:
    """Plans every stream except the film's.

    Args:
        container: the source.
        target: `mp4`, `mov` or `matroska`.
        film: index of the stream that is upscaled.
    """
    return [_plan(stream, target) for stream in container.streams if stream.index != film]


def check_streams(path: Path, source: VideoInfo) -> None:
    """Names the parts of `source` that the container of `path` cannot carry.

    Raises:
        InputError: sound that the container does not allow.
    """
    target = FORMATS[path.suffix.lower()]
    with open_container(source.path) as container:
        film = film_stream(container)
        for track in plan_tracks(container, target, film.index):
            if track.fate != "drop":
                continue
            stream = container.streams[track.index]
            if stream.type == "audio":
                raise InputError(_sound_refusal(path, source.path, stream, target))
            if track.reason:
                note(f"{source.path}: {track.reason}")
    for kind in sorted(source.side_data.keys() - HANDLED_SIDE_DATA):
        if kind in SIDE_DATA_NAMES:
            note(f"{source.path}: {SIDE_DATA_NAMES[kind]} cannot be carried over, and is left out")
    if source.has_alpha:
        note(f"{source.path}: transparency is left out; {path.suffix} is written without")


def note_pictures(path: Path, source: VideoInfo) -> None:
    """Names the properties of images that a video of them does not carry."""
    if source.has_alpha:
        note(f"{source.path}: transparency is left out; write .png to keep that of images")
    if source.has_profile:
        note(f"{source.path}: the colour profile has no place in {path.suffix}; write .png to keep it")


class StreamCopier:
    """Feeds all that is kept of `source` into `output`, in step with the video.

    Packets keep their bytes; their times move by `offset` only, so that the earliest of picture and sound is at 0
    (a broadcast recording may start at hours). A time that is not later than the one before it comes a tick later.

    Args:
        source: the video file that the streams come from; checked by `check_streams` before.
        target: format of the output, `mp4`, `mov` or `matroska`.
    """

    def __init__(self, source: VideoInfo, target: str):
        self._input = open_container(source.path)
        self._format = target
        self._clock: Clock = source.clock
        self._film = film_stream(self._input)
        self.tags = kept_tags(self._input.metadata)
        self.film_tags = kept_tags(self._film.metadata)
        if source.part is None and (start := timecode(self._input)) is not None:
            self.film_tags["timecode"] = start
        self.film_disposition = self._film.disposition
        self.marks: Marks = read_marks(self._film)
        starts = [s.start_time * s.time_base for s in self._input.streams.audio if s.start_time is not None]
        self._part = source.part
        self.offset: Fraction = min([source.start_time, *starts]) if source.part is None else source.part[0]
        self._targets: dict[int, av.stream.Stream] = {}
        self._converters: dict[int, TextConverter] = {}
        self.acm_tracks: list[AcmTrack] = []
        self._packets: Iterator[av.Packet] = iter(())
        self._counts: dict[int, int] = {}
        self._last: dict[int, int] = {}
        self._recording = 0
        self._pending: tuple[av.Packet, Fraction] | None = None

    def attach(self, output: av.container.OutputContainer) -> None:
        """Adds tags, chapters and all kept streams to an output, before its header is written."""
        self._output = output
        output.metadata.update(self.tags)
        for track in plan_tracks(self._input, self._format, self._film.index):
            self._add(track, self._format)
        if chapters := self._input.chapters():
            shifted = [self._shifted(chapter) for chapter in chapters]
            kept = [
                chapter for chapter in shifted if chapter["end"] > chapter["start"] and self._is_in(chapter)
            ]
            output.set_chapters(kept)
        if copied := [self._input.streams[index] for index in self._targets]:
            self._packets = self._input.demux(copied)

    def needs_free_keys(self) -> bool:
        """Whether MP4's own list of tags would drop one of the file's."""
        return needs_free_keys(self.tags)

    def copy_until(self, seconds: Fraction | None) -> None:
        """Copies packets up to a time of the output; None copies all that are left."""
        while True:
            packet, shift = self._pending or self._next()
            self._pending = None
            if packet is None:
                return
            stamp = packet.dts if packet.dts is not None else packet.pts
            if seconds is not None and stamp is not None and stamp * packet.time_base + shift > seconds:
                self._pending = packet, shift
                return
            converter = self._converters.get(packet.stream_index)
            for new in [packet] if converter is None else converter.convert(packet):
                self._mux(new, self._targets[packet.stream_index], shift)

    def close(self) -> None:
        """Closes the source file."""
        self._input.close()

    def _add(self, track: Track, target: str) -> None:
        stream = self._input.streams[track.index]
        if track.fate == "drop":
            return
        if track.fate == "attach":
            if (cover := _cover(stream)) is not None:
                name, mime = COVER_TYPES[stream.codec_context.name]
                self._output.add_attachment(name, mime, cover)
            return
        if track.fate == "convert":
            self._converters[track.index] = TextConverter(stream, self._output, target)
            copy = self._converters[track.index].target
        elif track.fate == "acm":
            self.acm_tracks.append(AcmTrack(stream, self._output))
            copy = self.acm_tracks[-1].target
        else:
            copy = _add_copy(stream, self._output)
        copy.metadata.update(_track_tags(stream, target))
        copy.disposition = stream.disposition
        if stream.type != "attachment":
            self._targets[track.index] = copy

    def _next(self) -> tuple[av.Packet | None, Fraction]:
        """The next packet with bytes, and the shift of its times in seconds."""
        while (packet := next(self._packets, None)) is not None:
            if packet.size == 0 and not is_empty(packet):  # the demuxer's sign for the end of a stream
                continue
            index = packet.stream_index
            number = self._counts[index] = self._counts.get(index, -1) + 1
            if index in self._clock.starts:
                self._recording = self._clock.recording(index, number)
            shift = self._clock.shifts[self._recording] - self.offset
            if packet.size and self._is_wanted(packet, shift):
                return packet, shift
        return None, Fraction(0)

    def _is_wanted(self, packet: av.Packet, shift: Fraction) -> bool:
        """Whether a packet begins within the part that is taken."""
        stamp = packet.pts if packet.pts is not None else packet.dts
        if self._part is None or stamp is None:
            return True
        return 0 <= stamp * packet.time_base + shift < self._part[1] - self._part[0]

    def _is_in(self, chapter: dict[str, Any]) -> bool:
        """Whether a shifted chapter begins before the end of the part that is taken."""
        return self._part is None or chapter["start"] * chapter["time_base"] < self._part[1] - self._part[0]

    def _mux(self, packet: av.Packet, target: av.stream.Stream, shift: Fraction) -> None:
        """Writes a packet with its times in the output's own ticks, each later than the last."""
        self._output.start_encoding()  # settles the time bases
        tick = target.time_base
        scale = packet.time_base / tick
        pts, dts = (None if t is None else round(t * scale + shift / tick) for t in (packet.pts, packet.dts))
        last = self._last.get(target.index)
        dts = dts if dts is not None else pts if pts is not None else 0 if last is None else last
        if target.type == "subtitle":
            dts = max(dts, 0)
        if last is not None and dts <= last:
            dts = last + 1
        packet.duration = round((packet.duration or 0) * scale)
        packet.time_base = tick
        packet.dts, packet.pts = dts, dts if pts is None else max(pts, dts)
        self._last[target.index] = dts
        packet.stream = target
        self._output.mux(packet)

    def _shifted(self, chapter: dict[str, Any]) -> dict[str, Any]:
        shift = round(self.offset / chapter["time_base"])
        return {**chapter, "start": max(0, chapter["start"] - shift), "end": chapter["end"] - shift}


def _plan(stream: av.stream.Stream, target: str) -> Track:
    index, title = stream.index, _title(stream)
    if stream.type == "video":
        if not stream.disposition & NO_FILM:
            size = (
                f"{stream.codec_context.width}x{stream.codec_context.height}"
                if stream.codec_context
                else "unknown"
            )
            return Track(index, "drop", f"of several video streams, number {index} ({size}) is left out")
        if (
            target == "matroska"
            and stream.codec_context is not None
            and stream.codec_context.name in COVER_TYPES
        ):
            return Track(index, "attach")
        kept = target != "matroska" and _takes(stream, target)
        return (
            Track(index, "copy")
            if kept
            else Track(index, "drop", f"its cover picture has no place in {title}")
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
    remedy = "" if target == "matroska" else "; .mkv may keep it"
    return Track(index, "drop", f"{title} cannot be carried over, and is left out{remedy}")


def _title(stream: av.stream.Stream) -> str:
    """A stream in a user's words."""
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
    """Name of a stream's codec; FFmpeg may not know one."""
    context = stream.codec_context
    return (context.name if context is not None else getattr(stream, "name", None)) or "unknown"


def _track_tags(stream: av.stream.Stream, target: str) -> dict[str, str]:
    tags = kept_tags(stream.metadata)
    if target == "matroska" and "handler_name" in tags:
        # MP4's handler is a title where it is not one of its muxers' own.
        name = tags.pop("handler_name")
        if "title" not in tags and not name.lower().endswith(("handler", "handle")) and name.isprintable():
            tags["title"] = name
    return tags


def _cover(stream: av.stream.Stream) -> bytes | None:
    """The bytes of an attached picture."""
    with open_container(Path(stream.container.name.removeprefix("file:"))) as container:
        packets = container.demux(container.streams[stream.index])
        return next((bytes(packet) for packet in packets if packet.size), None)


def _add_copy(stream: av.stream.Stream, output: av.container.OutputContainer) -> av.stream.Stream:
    copy = output.add_stream_from_template(stream, opaque=True)
    if (
        stream.type == "audio"
        and stream.codec_context is not None
        and stream.layout.name.endswith("channels")
    ):
        # WAV and AVI count channels and do not say where they are; MP4 wants to know.
        layout = USUAL_LAYOUTS.get(stream.layout.nb_channels)
        if layout is not None:
            copy.codec_context.layout = layout
    return copy


def _takes(stream: av.stream.Stream, target: str) -> bool:
    """Whether that container takes a stream as it is: the muxer says so when it writes a header."""
    with io.BytesIO() as memory:
        try:
            with av.open(memory, "w", format=target) as trial:
                copy = _add_copy(stream, trial)
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
    return f"{path.suffix} cannot carry the {codec} sound of {source}; {remedy}"
