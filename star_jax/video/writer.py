"""Writes H.264 files from RGB frames, with the source's timing, sound and subtitles."""

import contextlib
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.video.reformatter import (
    ColorPrimaries,
    ColorRange,
    Colorspace,
    ColorTrc,
)

from star_jax.errors import DiskError, InputError, RunError
from star_jax.files import draft_path, real_path
from star_jax.video.container import file_url
from star_jax.video.outputs import check_output_path
from star_jax.video.probe import VideoInfo
from star_jax.video.streams import FORMATS, StreamCopier

__all__ = ["PRESETS", "VideoWriter", "check_output_path"]

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
MAX_CRF = 51
MAX_SIDE = 16_384  # x264's
# H.264 players take chroma samples to lie on the left; swscale alone would centre them, and move colours.
CONVERSION = (
    "out_color_matrix=bt709:out_range=limited:out_chroma_loc=left:flags=bicubic+accurate_rnd+full_chroma_inp"
)
# Code points of primaries and transfer curve that say nothing: unspecified and reserved.
UNKNOWN = {0, 2, 3}
# Ticks per second at least, so that a start time is kept to about 10 microseconds.
MIN_TIMESCALE = 90_000


class VideoWriter:
    """Context manager that writes frames as H.264; the file appears under its name only when all went well.

    Written as yuv420p, or yuv444p where width or height is odd (the size is kept; some hardware players do not
    take it). The matrix is BT.709, limited range, and tagged so; primaries and transfer curve are those of the
    source where it names them (RGB values pass through unchanged), else BT.709.
    A source of constant rate gives exactly equal steps of 1 / `frame_rate` from its start time on; one of variable
    rate keeps its timestamps. Sound and subtitles of `source` are copied without re-encoding.

    Args:
        path: .mp4, .mov or .mkv; an existing file is replaced.
        width, height: size of the frames in pixels.
        frame_rate: frames per second, exact.
        crf: x264's constant rate factor, 0 (lossless) to 51.
        preset: x264's preset.
        source: where timing, sound, subtitles, pixel aspect and colour tags come from.

    Raises:
        InputError: see `check_output_path`; also an unknown preset, a crf out of range, or frames too large.
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
    ):
        if preset not in PRESETS:
            raise InputError(f"preset {preset!r} is unknown; expected one of {', '.join(PRESETS)}")
        if not 0 <= crf <= MAX_CRF:
            raise InputError(f"crf is {crf}; expected 0 (lossless) to {MAX_CRF} (smallest file)")
        if max(width, height) > MAX_SIDE:
            raise InputError(
                f"{width}x{height} is too large for H.264 (up to {MAX_SIDE}); lower the scale, or write to %05d.png"
            )
        self.path = check_output_path(path, source)
        self.partial_path = draft_path(self.path)
        self.num_frames = 0
        self._size = (height, width)
        self._frame_rate = Fraction(frame_rate)
        self._options = {"crf": str(crf), "preset": preset}
        self._source = source
        self._keeps_pts = source is not None and source.is_variable_rate
        self._copier: StreamCopier | None = None
        self._container: av.container.OutputContainer | None = None

    def __enter__(self) -> "VideoWriter":
        try:
            self._open()
        except BaseException as error:
            self._discard()
            if isinstance(error, (av.FFmpegError, ValueError)):
                raise self._run_error(error) from error
            raise
        return self

    def write(self, frames: np.ndarray, pts: Sequence[int] | None = None) -> None:
        """Encodes frames uint8 [f, H, W, 3], RGB.

        Args:
            frames: in the order of showing.
            pts: their timestamps in `source.time_base`; used where the source has a variable rate.

        Raises:
            RunError: the file cannot be written (a full disk, say).
        """
        if frames.dtype != np.uint8 or frames.shape[1:] != (*self._size, 3):
            raise ValueError(
                f"expected uint8 [f, {self._size[0]}, {self._size[1]}, 3], got {frames.dtype} {frames.shape}"
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

    def _open(self) -> None:
        options = {"movflags": "faststart"} if FORMATS[self.path.suffix.lower()] != "matroska" else {}
        self._container = av.open(
            file_url(self.partial_path),
            "w",
            format=FORMATS[self.path.suffix.lower()],
            container_options=options,
        )
        height, width = self._size
        stream = self._container.add_stream("libx264", rate=self._frame_rate, options=self._options)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p" if width % 2 == height % 2 == 0 else "yuv444p"
        source = self._source
        context = stream.codec_context
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        start = Fraction(0)
        if source is not None:
            context.sample_aspect_ratio = source.sample_aspect_ratio
            if source.color_primaries not in UNKNOWN:
                context.color_primaries = source.color_primaries
            if source.color_trc not in UNKNOWN:
                context.color_trc = source.color_trc
            if not source.is_images:
                self._copier = StreamCopier(source, self._container)
                start = source.start_time - self._copier.offset
        if self._keeps_pts:
            self._time_base = source.time_base
            self._start = round((start - source.start_time) / self._time_base)
        else:
            ticks = -(-MIN_TIMESCALE // self._frame_rate.numerator)
            self._time_base = Fraction(1, self._frame_rate.numerator * ticks)
            self._start = round(start / self._time_base)
        self._ticks_per_frame = 1 / self._frame_rate / self._time_base
        context.time_base = stream.time_base = self._time_base
        self._stream = stream
        self._converter = _converter(width, height, stream.pix_fmt)

    def _encode(self, image: np.ndarray, pts: int | None) -> list[av.Packet]:
        self._converter.vpush(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24"))
        frame = self._converter.vpull()
        frame.time_base = self._time_base
        frame.pts = self._start + (pts if pts is not None else round(self.num_frames * self._ticks_per_frame))
        frame.duration = round(self._ticks_per_frame)
        self.num_frames += 1
        return self._stream.encode(frame)

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            # Sound up to here first: the muxer needs both to interleave, and holds back what runs ahead.
            if self._copier is not None:
                self._copier.copy_until(packet.dts * packet.time_base)
            self._container.mux(packet)

    def _finish(self) -> None:
        if not self.num_frames:
            raise RunError(f"{self.path} was not written: no frame came")
        self._mux(self._stream.encode(None))
        if self._copier is not None:
            self._copier.copy_until(None)
            self._copier.close()
        self._container.close()
        os.replace(self.partial_path, real_path(self.path))

    def _discard(self) -> None:
        if self._copier is not None:
            self._copier.close()
        # Removed before closing, which would first complete the file, and fails again on a full disk.
        self.partial_path.unlink(missing_ok=True)
        if self._container is not None:
            with contextlib.suppress(av.FFmpegError):
                self._container.close()

    def _run_error(self, error: Exception) -> RunError:
        reason = getattr(error, "strerror", None) or str(error)
        return DiskError(f"cannot write {self.path}: {reason}; check the free space of the disk")


def _converter(width: int, height: int, pix_fmt: str) -> av.filter.Graph:
    """From RGB frames to the encoder's pixel format."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=width, height=height, format=av.VideoFormat("rgb24"), time_base=Fraction(1, MIN_TIMESCALE)
    )
    steps = graph.add("scale", CONVERSION), graph.add("format", pix_fmt), graph.add("buffersink")
    graph.link_nodes(source, *steps).configure()
    return graph
