"""Animated pictures (WebP, PNG, AVIF) and TIFF files of several pages as frames with times."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from star_jax.errors import InputError
from star_jax.video.notes import note
from star_jax.video.pictures import Picture, from_pillow, inspect_picture, open_picture, read_page
from star_jax.video.probe import VideoInfo

TIME_BASE = Fraction(1, 1000)


class AnimationReader:
    """The pictures of an animation as RGB frames, with the interface of `VideoReader`.

    Each frame is a complete picture, even if the file stores only a part of it. Pages of a TIFF, and pictures of an
    animation without times, follow each other at `frame_rate`. Frames are uint8; with `depth` None they are uint16
    if the pages of a TIFF have more than 8 bits. Transparency is not in the frames; see `picture`.

    Args:
        path: path of the file.
        frame_rate: pages per second.
        depth: 8, or None for the depth of the pages.

    Raises:
        InputError: as in `inspect_picture`, or a picture cannot be decoded.
    """

    def __init__(self, path: str | Path, *, frame_rate: Fraction = Fraction(24), depth: int | None = 8):
        self.path = Path(path)
        facts = inspect_picture(self.path)
        step = 1 / Fraction(frame_rate)
        durations, has_alpha = [], False
        with open_picture(self.path) as image:
            is_tiff = image.format == "TIFF"
            self._by_cv2 = is_tiff and image.mode != "CMYK"
            # An animated PNG may have a separate picture for programs that do not support animations.
            self._first = 1 if getattr(image, "default_image", False) else 0
            for number in range(self._first, facts.num_frames):
                image.seek(number)
                image.load()  # a WebP picture has its time only after decoding
                has_alpha |= "A" in image.getbands() and image.getchannel("A").getextrema()[0] < 255
                milliseconds = image.info.get("duration") or 0
                durations.append(Fraction(milliseconds).limit_denominator(1000) * TIME_BASE or step)
        is_deep = self._by_cv2 and depth is None and facts.bit_depth > 8
        self.dtype = np.dtype(np.uint16 if is_deep else np.uint8)
        is_variable = len(set(durations)) > 1
        self._rate = len(durations) / sum(durations, Fraction(0))
        self._time_base = TIME_BASE if is_variable else 1 / self._rate
        starts = [sum(durations[:number], Fraction(0)) for number in range(len(durations))]
        self._times = [round(start / self._time_base) for start in starts]
        self.info = VideoInfo(
            path=self.path,
            width=facts.width,
            height=facts.height,
            frame_rate=self._rate,
            time_base=self._time_base,
            start_time=Fraction(0),
            num_frames=len(durations),
            duration=float(sum(durations)),
            is_variable_rate=is_variable,
            last_duration=durations[-1],
            is_images=True,
            bit_depth=16 if is_deep else 8,
            has_alpha=has_alpha,
        )
        if facts.bit_depth > 8 and not is_tiff:
            note(f"{self.path} has over 8 bits per sample; its pictures are read with 8 bits")

    def times(self) -> list[int]:
        """Timestamps of all frames in `info.time_base`."""
        return list(self._times)

    def chunks(self, size: int) -> Iterator[tuple[np.ndarray, list[int]]]:
        """Yields (frames [f, H, W, 3], their timestamps), `size` at a time; see `VideoReader.chunks`."""
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        for start in range(0, len(self._times), size):
            stamps = self._times[start : start + size]
            yield self._load(range(start, start + len(stamps))), stamps

    def read(self, start: int = 0, count: int | None = None, stride: int = 1) -> np.ndarray:
        """Reads pictures start, start + stride, ...; returns [F, H, W, 3]; see `VideoReader.read`."""
        total = len(self._times)
        if start < 0 or stride < 1:
            raise ValueError(f"start must be at least 0 and stride at least 1, got {start} and {stride}")
        if count is None:
            count = max(0, -(-(total - start) // stride))
        wanted = range(start, start + count * stride, stride)
        if count < 1 or wanted[-1] >= total:
            raise InputError(
                f"{self.path} has {total} pictures, but {start} to {wanted.stop - stride} were requested"
            )
        return self._load(wanted)

    def picture(self, number: int) -> Picture:
        """Reads one picture, with its transparency.

        Raises:
            InputError: the picture cannot be decoded.
        """
        return next(self._pictures(range(number, number + 1)))

    def _load(self, numbers: range) -> np.ndarray:
        return np.stack([picture.rgb for picture in self._pictures(numbers)])

    def _pictures(self, numbers: range) -> Iterator[Picture]:
        if self._by_cv2:
            for number in numbers:
                yield read_page(
                    self.path, number, deep=self.dtype == np.uint16, has_alpha=self.info.has_alpha
                )
            return
        with open_picture(self.path) as image:
            for number in numbers:
                image.seek(self._first + number)
                yield from_pillow(image)
