"""Writes videos from RGB frames, with the source's times, sound, subtitles and tags."""

import contextlib
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.video.reformatter import ColorRange

from star_jax.errors import DiskError, InputError, RunError
from star_jax.files import draft_path, real_path
from star_jax.video.acm import name_codecs
from star_jax.video.captions import CaptionCarrier
from star_jax.video.container import file_url
from star_jax.video.encoders import CODECS, PRESETS, Quality, choose_encoding
from star_jax.video.frames import FrameMaker
from star_jax.video.marks import CODEC_IDS, add_marked_stream, drop_second_marks
from star_jax.video.outputs import check_output_path
from star_jax.video.probe import VideoInfo
from star_jax.video.streams import StreamCopier
from star_jax.video.tracks import FORMATS, note_codec

__all__ = ["PRESETS", "Quality", "VideoWriter", "check_output_path"]

# Smallest number of ticks per second, so that a start time is exact to about 10 microseconds.
MIN_TIMESCALE = 90_000


class Nowhere:
    """A file that discards everything written to it and keeps only its position."""

    def __init__(self) -> None:
        self._place = self._size = 0

    def write(self, data: bytes) -> int:
        """Discards bytes; returns their number."""
        self._place += len(data)
        self._size = max(self._size, self._place)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Moves like a file; returns the new position."""
        self._place = offset + (0, self._place, self._size)[whence]
        return self._place

    def tell(self) -> int:
        """The position."""
        return self._place


class VideoWriter:
    """Context manager that writes frames to a video; the file appears under its name only when it is complete.

    The default is H.264 with 8 bits for an 8-bit source, and HEVC with 10 or 12 bits for a deeper source: 4:2:0, or
    4:4:4 if width or height is odd (which keeps the size, but some hardware players do not support it). The range
    is limited, and the matrix is BT.709, or BT.2020 for a source with wide gamut or high dynamic range; both are
    tagged. Primaries and transfer curve come from the source if it has them (RGB values are not changed), else they
    are BT.709. A source with constant rate gives exactly equal steps of 1 / `frame_rate` from its start time on; a
    source with variable rate keeps its timestamps and the duration of its last frame. Sound is copied without
    re-encoding; for the other streams see streams.py.

    Entering the context first makes a trial whose bytes are discarded: the header, black pictures at the first and
    the last time, and all packets of the other streams.

    Args:
        path: .mp4, .mov or .mkv; an existing file is replaced.
        width, height: size of the frames in pixels.
        frame_rate: exact number of frames per second.
        crf, preset: quality and effort, if `quality` is not given.
        source: video that timing, sound, subtitles, pixel aspect and colour tags come from.
        quality: the user's choices of codec, depth and pixel format.

    Raises:
        InputError: see `check_output_path`, `choose_encoding` and `Quality`; on entering, the trial failed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        width: int,
        height: int,
        frame_rate: Fraction,
        crf: float = 17,
        preset: str = "medium",
        source: VideoInfo | None = None,
        quality: Quality | None = None,
    ):
        quality = quality or Quality(crf=crf, preset=preset)
        self.path = check_output_path(path, source)
        self._format = FORMATS[self.path.suffix.lower()]
        self.encoding = choose_encoding(quality, self._format, width, height, source)
        if source is not None:
            note_codec(source, self.encoding.codec, CODECS[self.encoding.codec].title)
        self.partial_path = draft_path(self.path)
        self.num_frames = 0
        self._size = (height, width)
        self._frame_rate = Fraction(frame_rate)
        self._source = source
        self._keeps_pts = source is not None and source.is_variable_rate
        self._copier: StreamCopier | None = None
        self._captions: CaptionCarrier | None = None
        self._container: av.container.OutputContainer | None = None

    def __enter__(self) -> "VideoWriter":
        self._try()
        try:
            self._open(file_url(self.partial_path))
        except BaseException as error:
            self._discard()
            if isinstance(error, (av.FFmpegError, ValueError)):
                raise self._run_error(error) from error
            raise
        return self

    def write(self, frames: np.ndarray, pts: Sequence[int] | None = None) -> None:
        """Encodes RGB frames [f, H, W, 3]: uint8 or uint16 with the full range, or float in 0 to 1.

        Args:
            frames: frames in presentation order.
            pts: timestamps of the frames in `source.time_base`; needed if the source has a variable rate, else
                ignored.

        Raises:
            RunError: the file cannot be written, for example because the disk is full.
        """
        if frames.dtype.kind not in "uf" or frames.shape[1:] != (*self._size, 3):
            raise ValueError(
                f"expected uint8, uint16 or float [f, {self._size[0]}, {self._size[1]}, 3], got {frames.dtype} "
                f"{frames.shape}"
            )
        if self._keeps_pts and pts is None:
            raise ValueError("the source has a variable frame rate; pass the timestamps of its frames")
        try:
            for i, image in enumerate(frames):
                self._mux(self._encode(image, pts[i] if self._keeps_pts else None))
        except av.FFmpegError as error:
            raise self._run_error(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            self._finish()
        except BaseException as error:
            self._discard()
            if isinstance(error, (av.FFmpegError, OSError)):
                raise self._run_error(error) from error
            raise

    def _try(self) -> None:
        """Writes everything but the pictures to nowhere, to find out before any work whether it can be written."""
        try:
            self._open(Nowhere())
            image = np.zeros((*self._size, 3), np.uint8)
            packets = [packet for pts in self._trial_times() for packet in self._encode(image, pts)]
            self._container.mux([*packets, *self._packets(None)])
            if self._copier is not None:
                self._copier.copy_until(None)
            self._container.close()
        except (av.FFmpegError, ValueError, OverflowError) as error:
            raise InputError(
                f"cannot write {self.path} from this source: {getattr(error, 'strerror', None) or error}; try "
                f"{'.mp4' if self._format == 'matroska' else '.mkv'}, or another --codec"
            ) from error
        finally:
            self._close_sources()
            self._container, self.num_frames = None, 0

    def _trial_times(self) -> list[int | None]:
        """Timestamps of the first and the last frame; [None] if timestamps follow from the frame rate."""
        source = self._source
        if not self._keeps_pts:
            return [None]
        first = round(source.start_time / source.time_base)
        last = first + round((Fraction(source.duration) - source.last_duration) / source.time_base)
        return [first, last] if source.num_frames > 1 and last > first else [first]

    def _open(self, target: str | Nowhere) -> None:
        source, encoding = self._source, self.encoding
        self._container = av.open(target, "w", format=self._format)
        start = Fraction(0)
        if source is not None and not source.is_images:
            self._copier = StreamCopier(source, self._format)
            start = source.start_time - self._copier.offset
            if "A53_CC" in source.side_data and encoding.codec in ("h264", "hevc"):
                self._captions = CaptionCarrier(
                    source.path, *self._size[::-1], encoding.pixel_format, source.first_frame
                )
        self._set_time_base(start)
        self._stream = self._add_stream()
        if self._copier is not None:
            self._stream.metadata.update(self._copier.film_tags)
            self._stream.disposition = self._copier.film_disposition
            self._copier.attach(self._container)
        if self._format != "matroska":
            flags = ["use_metadata_tags"] * (self._copier is not None and self._copier.needs_free_keys())
            # `faststart` reads the file again, so it needs a real file.
            flags += ["faststart"] * isinstance(target, str)
            self._container.container_options["movflags"] = "+".join(["", *flags]) or "0"
            self._container.container_options["strict"] = "unofficial"  # for the marks of 360-degree films
        self._maker = FrameMaker(encoding)
        self._last_pts: int | None = None

    def _add_stream(self) -> av.VideoStream:
        encoding, (height, width) = self.encoding, self._size
        marks = self._copier.marks.elements if self._copier is not None else ()
        if marks and encoding.codec in CODEC_IDS:
            context = self._encoder = av.CodecContext.create(encoding.encoder, "w")
            context.options, context.framerate = encoding.options, self._frame_rate
            context.flags |= av.codec.context.Flags.global_header
        else:
            stream = self._container.add_stream(
                encoding.encoder, rate=self._frame_rate, options=encoding.options
            )
            context = self._encoder = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, encoding.pixel_format
        context.colorspace, context.color_range = encoding.matrix, ColorRange.MPEG
        context.color_primaries, context.color_trc = encoding.color_primaries, encoding.color_trc
        if self._source is not None:
            context.sample_aspect_ratio = self._source.sample_aspect_ratio
        context.time_base = self._time_base
        if marks and encoding.codec in CODEC_IDS:
            context.open()
            stream = add_marked_stream(self._container, context, encoding.codec, self._copier.marks)
        stream.time_base = self._time_base
        if encoding.tag and self._format != "matroska":
            stream.codec_context.codec_tag = encoding.tag
        return stream

    def _set_time_base(self, start: Fraction) -> None:
        """Chooses the ticks of the output, whose first frame is shown at `start` seconds."""
        source = self._source
        if self._keeps_pts:
            # Finer than the source's, so that sound keeps its offset to the picture, too.
            factor = -(-MIN_TIMESCALE // source.time_base.denominator)
            self._time_base = Fraction(1, source.time_base.denominator * factor)
            self._ticks = source.time_base / self._time_base
            self._start = round((start - source.start_time) / self._time_base)
        else:
            ticks = -(-MIN_TIMESCALE // self._frame_rate.numerator)
            self._time_base = Fraction(1, self._frame_rate.numerator * ticks)
            self._start = round(start / self._time_base)
        self._ticks_per_frame = 1 / self._frame_rate / self._time_base

    def _encode(self, image: np.ndarray, pts: int | None) -> list[av.Packet]:
        frame = self._maker.make(image)
        if self._captions is not None:
            frame = self._captions.dress(frame)
        frame.time_base = self._time_base
        place = (
            round(pts * self._ticks) if pts is not None else round(self.num_frames * self._ticks_per_frame)
        )
        frame.pts = self._last_pts = self._start + place
        frame.duration = round(self._ticks_per_frame)
        self.num_frames += 1
        return self._packets(frame)

    def _packets(self, frame: av.VideoFrame | None) -> list[av.Packet]:
        packets = self._encoder.encode(frame)
        if frame is None and len(packets) == self.num_frames and self.encoding.encoder == "libx265":
            _set_decoding_times(packets)
        for packet in packets:
            packet.stream = self._stream
            packet.duration = packet.duration or round(self._ticks_per_frame)
        return packets

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            # Sound up to here comes first: the muxer interleaves both, and holds back the stream that is ahead.
            if self._copier is not None:
                self._copier.copy_until(packet.dts * packet.time_base)
            self._container.mux(packet)

    def _finish(self) -> None:
        if not self.num_frames:
            raise RunError(f"{self.path} was not written, because there were no frames")
        packets = self._packets(None)
        for packet in packets:
            if self._keeps_pts and packet.pts == self._last_pts:
                packet.duration = round(self._source.last_duration / self._time_base)
        self._mux(packets)
        copier = self._copier
        if copier is not None:
            copier.copy_until(None)
        self._close_sources()
        self._container.close()
        if copier is not None and copier.acm_tracks:
            name_codecs(self.partial_path, copier.acm_tracks)
        if copier is not None and copier.marks.elements and self._format != "matroska":
            drop_second_marks(self.partial_path)
        os.replace(self.partial_path, real_path(self.path))

    def _close_sources(self) -> None:
        for source in (self._copier, self._captions):
            if source is not None:
                source.close()
        self._copier = self._captions = None

    def _discard(self) -> None:
        self._close_sources()
        # The file is removed before it is closed: closing would first complete it, and fails again on a full disk.
        self.partial_path.unlink(missing_ok=True)
        if self._container is not None:
            with contextlib.suppress(av.FFmpegError):
                self._container.close()

    def _run_error(self, error: Exception) -> RunError:
        reason = getattr(error, "strerror", None) or str(error)
        return DiskError(f"cannot write {self.path}: {reason}; check the free space of the disk")


def _set_decoding_times(packets: list[av.Packet]) -> None:
    """Sets `dts` of all packets from `pts`: x265 leaves it undefined if there are fewer frames than its delay."""
    in_order = sorted(packet.pts for packet in packets)
    delay = max((time - packet.pts for time, packet in zip(in_order, packets, strict=True)), default=0)
    for time, packet in zip(in_order, packets, strict=True):
        packet.dts = time - delay
