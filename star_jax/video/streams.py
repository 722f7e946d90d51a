"""Copies sound, subtitles, chapters and titles from a source file into an output, packet by packet."""

import io
import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from star_jax.errors import InputError
from star_jax.video.container import file_url
from star_jax.video.probe import VideoInfo

logger = logging.getLogger(__name__)

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
COPIED_KINDS = ("audio", "subtitle")
# What the muxer writes itself, or what describes the old file.
FILE_FACTS = {"encoder", "major_brand", "minor_version", "compatible_brands", "creation_time", "duration"}
STREAM_TITLES = ("language", "title", "handler_name")


class StreamCopier:
    """Feeds the sound and subtitles of `source` into `output`, in step with the video.

    Packets keep their bytes; their times move by `offset` only, so that the earliest of picture and sound is at 0
    (a broadcast recording may start at hours).

    Args:
        source: the video file that the streams come from; checked by `check_streams` before.
        output: container open for writing, before its header is written.
    """

    def __init__(self, source: VideoInfo, output: av.container.OutputContainer):
        self._input = av.open(file_url(source.path))
        self._output = output
        output.metadata.update({k: v for k, v in self._input.metadata.items() if k.lower() not in FILE_FACTS})
        self._targets = {}
        for stream in self._input.streams:
            if stream.type in COPIED_KINDS and _refusal(stream, output.format.name) is None:
                self._targets[stream.index] = _add_copy(stream, output)
        starts = [s.start_time * s.time_base for s in self._input.streams.audio if s.start_time is not None]
        self.offset: Fraction = min([source.start_time, *starts])
        if chapters := self._input.chapters():
            shifted = [self._shifted(chapter) for chapter in chapters]
            output.set_chapters([chapter for chapter in shifted if chapter["end"] > chapter["start"]])
        copied = [self._input.streams[index] for index in self._targets]
        self._packets = self._input.demux(copied) if copied else iter(())
        self._pending: av.Packet | None = None

    def _shifted(self, chapter: dict[str, Any]) -> dict[str, Any]:
        shift = round(self.offset / chapter["time_base"])
        return {**chapter, "start": max(0, chapter["start"] - shift), "end": chapter["end"] - shift}

    def copy_until(self, seconds: Fraction | None) -> None:
        """Copies packets up to a time of the output; None copies all that are left."""
        while True:
            packet = self._pending or next(self._packets, None)
            self._pending = None
            if packet is None:
                return
            if packet.size == 0:  # the demuxer's sign for the end of a stream
                continue
            stamp = packet.dts if packet.dts is not None else packet.pts
            if seconds is not None and stamp is not None and stamp * packet.time_base - self.offset > seconds:
                self._pending = packet
                return
            shift = round(self.offset / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if packet.dts is None else packet.dts - shift
            packet.stream = self._targets[packet.stream_index]
            self._output.mux(packet)

    def close(self) -> None:
        """Closes the source file."""
        self._input.close()


def check_streams(path: Path, source: VideoInfo) -> None:
    """Checks by writing headers into memory that the container of `path` can carry the sound of `source`.

    Subtitles that it cannot carry are named in a warning and left out.

    Raises:
        InputError: sound that the container does not allow.
    """
    container_format = FORMATS[path.suffix.lower()]
    with av.open(file_url(source.path)) as container:
        for stream in container.streams:
            if stream.type not in COPIED_KINDS:
                continue
            codec = _refusal(stream, container_format)
            if codec is None:
                continue
            if stream.type == "subtitle":
                logger.warning(
                    "%s cannot carry the %s subtitles of %s; they are left out", path, codec, source.path
                )
                continue
            raise InputError(
                f"{path.suffix} cannot carry the {codec} sound of {source.path}; write .mkv, or convert the "
                f"sound first: ffmpeg -i {source.path.name} -c:v copy -c:a aac converted.mkv"
            )


def _add_copy(stream: av.stream.Stream, output: av.container.OutputContainer) -> av.stream.Stream:
    copy = output.add_stream_from_template(stream)
    copy.metadata.update({key: stream.metadata[key] for key in STREAM_TITLES if key in stream.metadata})
    copy.disposition = stream.disposition
    return copy


def _refusal(stream: av.stream.Stream, container_format: str) -> str | None:
    """Name of the stream's codec if that container does not take it, else None."""
    with io.BytesIO() as memory, av.open(memory, "w", format=container_format) as trial:
        try:
            _add_copy(stream, trial)
            trial.start_encoding()
        except (av.FFmpegError, ValueError):
            return stream.name or "unknown"
    return None
