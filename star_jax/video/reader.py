"""Reads video files: RGB frames in pieces for the upscaler, and frame-accurate clips for training."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from star_jax.errors import InputError, RunError
from star_jax.video import color
from star_jax.video.container import open_video
from star_jax.video.decoding import Damage, decode_frames
from star_jax.video.deinterlace import CHOICES, deinterlaced
from star_jax.video.orientation import Turn
from star_jax.video.probe import VideoInfo, note_damage, probe_video
from star_jax.video.timeline import FrameTable, OnScan

__all__ = ["VideoInfo", "VideoReader"]


class VideoReader:
    """A video file as upright RGB frames in presentation order.

    Frames are uint8 [F, H, W, 3]. With `depth` None, a file with more than 8 bits gives uint16 with the full range,
    without an 8-bit step. Colours follow the tags of the file (matrix, range). An untagged file has limited range;
    it is BT.709 if it has over 576 lines or is at least 1280 wide, else BT.601. Transfer curve and primaries are
    not changed.

    Args:
        path: a file that FFmpeg can read.
        num_threads: number of decoder threads; 0 uses all cores, and a data loader's worker should use 1.
        depth: 8, or None for the depth of the file.
        scan: whether to decode the whole file first, which finds damage and irregular times anywhere; otherwise
            only its packets are read.
        strict: whether to reject a damaged file; otherwise all frames that can be decoded are returned, and a note
            says how many are lost.
        deinterlace: `auto` (flagged frames), `on` (all) or `off`.
        on_scan: called with (number of frames decoded, total number of frames) during the scan.

    Raises:
        InputError: the path is missing, a folder or unreadable, or the file is not a video, has no video stream or
            no frames, or is cut off.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        num_threads: int = 0,
        depth: int | None = 8,
        scan: bool = False,
        strict: bool = True,
        deinterlace: str = "off",
        on_scan: OnScan | None = None,
    ):
        if deinterlace not in CHOICES:
            raise InputError(f"deinterlace is {deinterlace!r}; choose one of {', '.join(CHOICES)}")
        self.path = Path(path)
        self.info: VideoInfo
        self._table: FrameTable
        self.info, self._table = probe_video(self.path, scan=scan, strict=strict, on_scan=on_scan)
        is_damaged = self._table.damage is not None and self._table.damage.errors > 0
        self.num_threads = 1 if is_damaged else num_threads
        self._is_deep = depth is None and self.info.bit_depth > 8
        is_needed = deinterlace == "on" or (deinterlace == "auto" and self.info.is_interlaced)
        self._deinterlace = deinterlace if is_needed else "off"
        note_damage(self.info, self._table)

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the frames: uint8 or uint16."""
        return np.dtype(np.uint16 if self._is_deep else np.uint8)

    def chunks(self, size: int) -> Iterator[tuple[np.ndarray, list[int]]]:
        """Yields all frames, `size` at a time, opening the file anew on each call.

        Memory holds one piece and the decoder's few frames.

        Yields:
            frames uint8 or uint16 [f, H, W, 3], where f = size except in the last piece, and their timestamps in
            `info.time_base`.

        Raises:
            RunError: a frame cannot be decoded, or the number of frames is not the one that was counted.
        """
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        rgb = _RGBConverter(self.info, self.dtype)
        count = 0
        images: list[np.ndarray] = []
        for frame in self._all_frames():
            images.append(rgb(frame))
            count += 1
            if len(images) == size:
                yield np.stack(images), self._pts(count - size, count)
                images = []
        if images:
            yield np.stack(images), self._pts(count - len(images), count)
        if count != self.info.num_frames:
            raise RunError(
                f"{self.path} is damaged: {count} frames decoded instead of {self.info.num_frames}; copy it again"
            )

    def read(self, start: int = 0, count: int | None = None, stride: int = 1) -> np.ndarray:
        """Decodes frames start, start + stride, ...

        It seeks to the key frame before `start`, and converts only the requested frames to RGB.

        Args:
            start: number of the first frame.
            count: number of frames; None reads to the end.
            stride: step from one frame number to the next.

        Returns:
            uint8 or uint16 [F, H, W, 3].

        Raises:
            InputError: the range exceeds the video.
            RunError: a frame cannot be decoded.
            ValueError: `start` is negative, or `stride` is less than 1.
        """
        total = self.info.num_frames
        if start < 0 or stride < 1:
            raise ValueError(f"start must be at least 0 and stride at least 1, got {start} and {stride}")
        if count is None:
            count = max(0, -(-(total - start) // stride))
        wanted = range(start, start + count * stride, stride)
        if count < 1 or wanted[-1] >= total:
            raise InputError(
                f"{self.path} has {total} frames, but {start} to {start + (count - 1) * stride} were requested"
            )
        rgb = _RGBConverter(self.info, self.dtype)
        images = []
        for index, frame in self._frames_from(start):
            if index in wanted:
                images.append(rgb(frame))
            if index >= wanted[-1]:
                break
        if len(images) != count:
            raise RunError(
                f"{self.path} is damaged: only {len(images)} of {count} frames were decoded; copy it again"
            )
        return np.stack(images)

    def times(self) -> list[int]:
        """Timestamps of all frames in `info.time_base`."""
        return self._table.pts.tolist()

    def _pts(self, start: int, stop: int) -> list[int]:
        return self._table.pts[start:stop].tolist()

    def _all_frames(self) -> Iterator[av.VideoFrame]:
        """Decodes the file from the start; the frames are exactly those of the table."""
        damage = Damage() if self._table.damage is not None else None
        with open_video(self.path, self.num_threads) as (container, stream):
            frames = self._renamed(decode_frames(container, stream, damage))
            if self._deinterlace != "off":
                frames = deinterlaced(frames, self._deinterlace)
            for _, frame in frames:
                yield frame

    def _renamed(
        self, frames: Iterator[tuple[int | None, av.VideoFrame]], count: int = 0
    ) -> Iterator[tuple[int | None, av.VideoFrame]]:
        """Yields the same frames; an error says where decoding failed, given that `count` frames came before."""
        try:
            for numbered in frames:
                yield numbered
                count += 1
        except av.FFmpegError as error:
            raise RunError(
                f"{self.path} cannot be decoded after frame {count} of {self.info.num_frames}: it is damaged; "
                f"repair it with: ffmpeg -i {self.path.name} -crf 10 repaired.mp4"
            ) from error

    def _frames_from(self, start: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yields (frame number, frame) from a key frame at or before `start` on."""
        keys = np.flatnonzero(self._table.is_key[: start + 1])
        if self._table.stamps is not None and self._deinterlace == "off" and len(keys) and keys[-1] > 0:
            with open_video(self.path, self.num_threads) as (container, stream):
                # A demuxer compares decoding times and may seek past the key frame; then try the one before it.
                for target in keys[-2:][::-1].tolist():
                    container.seek(int(self._table.stamps[target]), stream=stream)
                    decoded = ((None, frame) for frame in container.decode(stream))
                    frames = (frame for _, frame in self._renamed(decoded, target))
                    first = next(frames, None)
                    number = self._number_of(first)
                    if number is not None and number <= keys[-1]:
                        yield from enumerate(chain([first], frames), number)
                        return
        # Some containers have other timestamps after a seek; their frames can only be counted from the start.
        yield from enumerate(self._all_frames())

    def _number_of(self, frame: av.VideoFrame | None) -> int | None:
        """Number of a decoded frame by its timestamp; None if no frame has this timestamp."""
        if frame is None or frame.pts is None:
            return None
        index = int(np.searchsorted(self._table.stamps, frame.pts))
        return index if index < len(self._table.pts) and self._table.stamps[index] == frame.pts else None


class _RGBConverter:
    """Converts decoded frames to upright RGB arrays of one size; keeps swscale's context between frames."""

    def __init__(self, info: VideoInfo, dtype: np.dtype):
        self._info, self._dtype = info, dtype
        self._reformatter = VideoReformatter()
        self._turn: Turn | None = None
        self._size: tuple[int, int] | None = None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        if self._turn is None:
            self._turn, self._size = Turn.of(frame), (frame.width, frame.height)
        if (frame.width, frame.height) != self._size:
            # A stream may change its size midway; swscale resizes every frame to the size of the first.
            width, height = self._size
            is_full = frame.color_range
            frame = self._reformatter.reformat(
                frame,
                width=width,
                height=height,
                format=frame.format.name,
                interpolation=color.SWSCALE,
                threads=1,
            )
            frame.color_range = is_full
        is_full = frame.color_range == color.FULL or frame.format.name.startswith("yuvj")
        image = color.read_rgb(frame, self._info.matrix, is_full, self._reformatter)
        return color.to_depth(self._turn.apply(self._info.crop.apply(image)), self._dtype)
