"""Reads video files: RGB frames in pieces for the upscaler, frame-accurate clips for training."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from star_jax.errors import InputError, RunError
from star_jax.video.container import open_video
from star_jax.video.frame_table import FrameTable
from star_jax.video.orientation import Turn
from star_jax.video.probe import VideoInfo, probe_video

__all__ = ["VideoInfo", "VideoReader"]

# Interpolated chroma and exact rounding: swscale's fast path repeats chroma samples and darkens by 0.7 levels.
CONVERSION = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class VideoReader:
    """A video file as uint8 RGB frames, upright, in the order of showing.

    Colour follows the tags of the file (matrix, range); an untagged file is BT.601, limited range, at any size:
    the convention of ffmpeg's swscale. Transfer curve and primaries are left as they are.

    Args:
        path: a file that FFmpeg can read.
        num_threads: decoder threads; 0 takes all cores, a data loader's worker wants 1.

    Raises:
        InputError: no such file, a folder, no permission, not a video, no video stream, no frames, cut off.
    """

    def __init__(self, path: str | Path, *, num_threads: int = 0):
        self.path = Path(path)
        self.num_threads = num_threads
        self.info: VideoInfo
        self._table: FrameTable
        self.info, self._table = probe_video(self.path)

    def chunks(self, size: int) -> Iterator[tuple[np.ndarray, list[int]]]:
        """Yields all frames, `size` at a time, opening the file anew on each call.

        Memory holds one piece and the decoder's few frames.

        Yields:
            frames uint8 [f, H, W, 3], f = size except in the last piece; their timestamps in `info.time_base`.

        Raises:
            RunError: a frame cannot be decoded, or fewer frames come out than the file announced.
        """
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        rgb = _RGBConverter(self.info)
        count = 0
        with open_video(self.path, self.num_threads) as (container, stream):
            images: list[np.ndarray] = []
            for frame in self._decode(container, stream, count):
                images.append(rgb(frame))
                count += 1
                if len(images) == size:
                    yield np.stack(images), self._pts(count - size, count)
                    images = []
            if images:
                yield np.stack(images), self._pts(count - len(images), count)
        if count != self.info.num_frames:
            raise RunError(
                f"{self.path} gave {count} of its {self.info.num_frames} frames; it is damaged: copy it again"
            )

    def read(self, start: int = 0, count: int | None = None, stride: int = 1) -> np.ndarray:
        """Decodes frames start, start + stride, ... (`count` of them; None: up to the end).

        Seeks to the key frame before `start`; only the frames asked for are converted to RGB.

        Returns:
            uint8 [F, H, W, 3].

        Raises:
            InputError: the range leaves the video.
            RunError: a frame cannot be decoded.
        """
        total = self.info.num_frames
        if start < 0 or stride < 1:
            raise ValueError(f"start must be at least 0 and stride at least 1, got {start} and {stride}")
        if count is None:
            count = max(0, -(-(total - start) // stride))
        wanted = range(start, start + count * stride, stride)
        if count < 1 or wanted[-1] >= total:
            raise InputError(
                f"{self.path} has {total} frames; frames {start} to {start + (count - 1) * stride} asked"
            )
        rgb = _RGBConverter(self.info)
        images = []
        for index, frame in self._frames_from(start):
            if index in wanted:
                images.append(rgb(frame))
            if index >= wanted[-1]:
                break
        if len(images) != count:
            raise RunError(f"{self.path} gave {len(images)} of the {count} frames asked; it is damaged")
        return np.stack(images)

    def _pts(self, start: int, stop: int) -> list[int]:
        return self._table.pts[start:stop].tolist()

    def _decode(
        self, container: av.container.InputContainer, stream: av.VideoStream, count: int
    ) -> Iterator[av.VideoFrame]:
        """Decodes on from where the container stands; `count` frames were decoded before (for messages)."""
        try:
            for frame in container.decode(stream):
                yield frame
                count += 1
        except av.FFmpegError as error:
            raise RunError(
                f"{self.path} cannot be decoded after frame {count} of {self.info.num_frames}: it is damaged; "
                f"repair it with: ffmpeg -i {self.path.name} -crf 10 repaired.mp4"
            ) from error

    def _frames_from(self, start: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yields (frame number, frame) from a key frame at or before `start` on."""
        keys = np.flatnonzero(self._table.is_key[: start + 1])
        if self._table.can_seek and len(keys) and keys[-1] > 0:
            with open_video(self.path, self.num_threads) as (container, stream):
                # A demuxer may land behind the key frame (it compares decoding times): then one key frame earlier.
                for target in keys[-2:][::-1].tolist():
                    container.seek(int(self._table.pts[target]), stream=stream)
                    frames = self._decode(container, stream, target)
                    first = next(frames, None)
                    number = self._number_of(first)
                    if number is not None and number <= keys[-1]:
                        yield from enumerate(chain([first], frames), number)
                        return
        # Some containers make up other timestamps after a seek; their frames can only be counted from the start.
        with open_video(self.path, self.num_threads) as (container, stream):
            yield from enumerate(self._decode(container, stream, 0))

    def _number_of(self, frame: av.VideoFrame | None) -> int | None:
        """Number of a decoded frame by its timestamp; None where no frame has that one."""
        if frame is None or frame.pts is None:
            return None
        index = int(np.searchsorted(self._table.pts, frame.pts))
        return index if index < len(self._table.pts) and self._table.pts[index] == frame.pts else None


class _RGBConverter:
    """Turns decoded frames into upright RGB arrays of one size; keeps swscale's context between frames."""

    def __init__(self, info: VideoInfo):
        self._info = info
        self._reformatter = VideoReformatter()
        self._turn: Turn | None = None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        if self._turn is None:
            self._turn = Turn.of(frame)
        # A stream may change its size midway; swscale brings every frame to the first one's.
        width, height = self._turn.size(self._info.width, self._info.height)
        image = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=CONVERSION, threads=1
        ).to_ndarray()
        return self._turn.apply(image)
