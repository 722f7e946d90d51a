"""Copies everything but the picture into an output, packet by packet; tracks.py decides what is kept."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from star_jax.video.acm import AcmTrack
from star_jax.video.container import film_stream, open_container
from star_jax.video.marks import Marks, read_marks
from star_jax.video.notes import note
from star_jax.video.packets import Clock, is_empty
from star_jax.video.probe import VideoInfo
from star_jax.video.subtitles import TextConverter
from star_jax.video.tags import KNOWN_TO_QUICKTIME, QUICKTIME_LANGUAGES, free_keys, kept_tags, timecode
from star_jax.video.tracks import COVER_TYPES, Track, add_copy, plan_tracks


class StreamCopier:
    """Copies the tracks of a source that are kept into an output, in sync with the video.

    Packets keep their bytes. Their times are shifted by `offset`, so that the earliest picture or sound is at 0 (a
    broadcast recording may start after hours). A time that is not later than the one before it is moved a tick
    later if the container needs that; a time that goes back or jumps ahead is replaced.

    Args:
        source: the video file with the streams, which `check_streams` has checked.
        target: format of the output: `mp4`, `mov` or `matroska`.
    """

    def __init__(self, source: VideoInfo, target: str):
        self._path, self._input = source.path, open_container(source.path)
        self._format = target
        self._clock: Clock = source.clock
        self._film = film_stream(self._input)
        self.tags = kept_tags(self._input.metadata)
        self.film_tags = _track_tags(self._film, target)
        if source.part is None and (start := timecode(self._input)) is not None:
            self.film_tags["timecode"] = start
        self.film_disposition = self._film.disposition
        self.marks: Marks = read_marks(self._film)
        starts = [self._start(s) for s in self._input.streams.audio if s.start_time is not None]
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
        tracks = plan_tracks(self._input, self._format, self._film.index)
        self._free_keys = [] if self._format == "matroska" else free_keys(self.tags)
        is_cover = [self._input.streams[t.index].type == "video" for t in tracks if t.fate == "copy"]
        # MP4 has either its own list of tags, with the cover, or free keys.
        if self._free_keys and any(is_cover):
            note(
                f"{self._path}: the tags {', '.join(self._free_keys)} cannot be combined with a cover picture, and "
                "are left out; .mkv keeps them"
            )
            self._free_keys = []
        for track in tracks:
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
        """Whether the output has tags that MP4's own list of tags would drop."""
        return bool(self._free_keys)

    def copy_until(self, seconds: Fraction | None) -> None:
        """Copies packets up to a time of the output in seconds; None copies all remaining packets."""
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

    def _start(self, stream: av.AudioStream) -> Fraction:
        time = self._clock.repaired.get(stream.index, {}).get(0, stream.start_time)
        return time * stream.time_base

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
            copy = add_copy(stream, self._output)
        copy.metadata.update(_track_tags(stream, target))
        copy.disposition = stream.disposition
        if stream.type != "attachment":
            self._targets[track.index] = copy

    def _next(self) -> tuple[av.Packet | None, Fraction]:
        """The next packet with bytes, and the shift of its times in seconds."""
        while (packet := self._demuxed()) is not None:
            if packet.size == 0 and not is_empty(packet):  # the demuxer's marker for the end of a stream
                continue
            index = packet.stream_index
            number = self._counts[index] = self._counts.get(index, -1) + 1
            if index in self._clock.starts:
                self._recording = self._clock.recording(index, number)
            if (time := self._clock.repaired.get(index, {}).get(number)) is not None:
                packet.pts = packet.dts = time
            shift = self._clock.shifts[self._recording] - self.offset
            if self._format == "matroska" and number < self._clock.cut.get(index, 0):
                continue  # Matroska has no edit list, so players would play them
            if packet.size and self._is_wanted(packet, shift):
                return packet, shift
        return None, Fraction(0)

    def _demuxed(self) -> av.Packet | None:
        try:
            return next(self._packets, None)
        except av.FFmpegError:  # the file is cut off, which was noted when it was opened
            return None

    def _is_wanted(self, packet: av.Packet, shift: Fraction) -> bool:
        """Whether a packet begins within the part that is upscaled."""
        stamp = packet.pts if packet.pts is not None else packet.dts
        if self._part is None or stamp is None:
            return True
        return 0 <= stamp * packet.time_base + shift < self._part[1] - self._part[0]

    def _is_in(self, chapter: dict[str, Any]) -> bool:
        """Whether a shifted chapter begins before the end of the part that is upscaled."""
        return self._part is None or chapter["start"] * chapter["time_base"] < self._part[1] - self._part[0]

    def _mux(self, packet: av.Packet, target: av.stream.Stream, shift: Fraction) -> None:
        """Writes a packet with its times in ticks of the output, in increasing order."""
        self._output.start_encoding()  # fixes the time bases
        tick = target.time_base
        scale = packet.time_base / tick
        pts, dts = (None if t is None else round(t * scale + shift / tick) for t in (packet.pts, packet.dts))
        last = self._last.get(target.index)
        dts = dts if dts is not None else pts if pts is not None else 0 if last is None else last
        if target.type == "subtitle":
            dts = max(dts, 0)
        if last is not None:
            # Matroska allows equal times, and needs them: there may be several packets in a millisecond.
            dts = max(dts, last if self._format == "matroska" else last + 1)
        packet.duration = round((packet.duration or 0) * scale)
        packet.time_base = tick
        packet.dts, packet.pts = dts, dts if pts is None else max(pts, dts)
        self._last[target.index] = dts
        packet.stream = target
        self._output.mux(packet)

    def _shifted(self, chapter: dict[str, Any]) -> dict[str, Any]:
        shift = round(self.offset / chapter["time_base"])
        return {**chapter, "start": max(0, chapter["start"] - shift), "end": chapter["end"] - shift}


def _track_tags(stream: av.stream.Stream, target: str) -> dict[str, str]:
    tags = kept_tags(stream.metadata)
    if "name" in tags:  # MP4's key for the title of a track; its muxer expects `title`
        tags.setdefault("title", tags.pop("name"))
    if target == "mov" and "language" in tags:
        tags["language"] = QUICKTIME_LANGUAGES.get(tags["language"], tags["language"])
        if tags["language"] not in KNOWN_TO_QUICKTIME:
            note(f"QuickTime has no code for language {tags['language']}; .mp4 and .mkv keep it")
    if target == "matroska" and "handler_name" in tags:
        # MP4's handler name is a title, unless it is a muxer's default.
        name = tags.pop("handler_name")
        if "title" not in tags and not name.lower().endswith(("handler", "handle")) and name.isprintable():
            tags["title"] = name
    return tags


def _cover(stream: av.stream.Stream) -> bytes | None:
    """Reads the bytes of an attached picture."""
    with open_container(Path(stream.container.name.removeprefix("file:"))) as container:
        packets = container.demux(container.streams[stream.index])
        return next((bytes(packet) for packet in packets if packet.size), None)
