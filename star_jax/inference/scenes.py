"""Scenes of a clip: the frames between one cut and the next. Each scene is upscaled by itself.

At a cut, the picture changes abruptly and permanently. Frames are compared as thumbnails, by their mean absolute
difference d in levels. The change across frames t-1 and t is

    across = min(d(t-1, t), d(t-1, t+1), d(t-2, t))

so that a flash, which is gone in the next frame, is not a cut. Frame t begins a scene if this change stands out
from the motion on both sides, max(d(t-2, t-1), d(t, t+1)), or is larger than any motion (as with slides, where
every picture is a scene).
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from star_jax.errors import InputError
from star_jax.video.animations import AnimationReader
from star_jax.video.images import ImageSequenceReader
from star_jax.video.reader import VideoReader

_THUMBNAIL = 24  # pixels of a side: finer detail moves too much
_LEAST_CHANGE = 12.0  # smallest change at a cut, in levels of 255
_OVER_MOTION = 2.5  # smallest ratio of the change at a cut to the motion before and after it
_LARGEST_MOTION = 50.0  # levels; a larger change is always a cut
# A program is compiled for each length. A clip with up to this many different lengths keeps them; with more, each
# is rounded up to one of four lengths per octave.
_EXACT_LENGTHS = 8


@dataclass(frozen=True)
class Scene:
    """Frames [start, stop) of a clip."""

    start: int
    stop: int

    @property
    def num_frames(self) -> int:
        """Number of frames, at least 1."""
        return self.stop - self.start


def scenes_between(cuts: Iterable[int], start: int, stop: int) -> list[Scene]:
    """The scenes within frames [start, stop), given the numbers of the frames that begin a new scene."""
    edges = [start, *sorted({cut for cut in cuts if start < cut < stop}), stop]
    return [Scene(first, last) for first, last in pairwise(edges)]


def common_lengths(scenes: Sequence[Scene]) -> list[int]:
    """Number of frames to which each scene is padded by its last frame, so that there are few different lengths."""
    lengths = [scene.num_frames for scene in scenes]
    return lengths if len(set(lengths)) <= _EXACT_LENGTHS else [_rounded_up(length) for length in lengths]


def find_cuts(pieces: Iterable[np.ndarray]) -> list[int]:
    """Numbers of the frames that begin a new scene, from frames uint8 or uint16 [f, H, W, C] in pieces."""
    cuts: list[int] = []
    seen: list[Any] = [None, None]  # followed by the thumbnails of frames 0, 1, ..., and None at the end
    for number, thumbnail in enumerate(_with_end(_thumbnails(pieces))):
        seen = [*seen[-3:], thumbnail]
        if number >= 2 and _is_cut(*seen):
            cuts.append(number - 1)
    return cuts


def read_cuts(path: Path) -> list[int]:
    """Reads a file of cuts: one line for each new scene, with the number of its first frame, counted from 0.

    Empty lines and comments (#) are ignored.

    Raises:
      InputError: the file cannot be read, or a line is not a frame number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read the scene cuts in {path}: {error}; give a text file with a frame number on each line"
        ) from error
    cuts = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        if not text.isascii() or not text.isdigit():
            raise InputError(
                f"line {number} of {path} is {text!r}, not a frame number; write the first frame of each new scene"
            )
        cuts.append(int(text))
    return cuts


class SceneReader:
    """Reads scenes in order; a pass that has read one scene continues with the next, so each decodes the clip once.

    Attributes:
      times: frame number -> timestamp of the frames read so far.
    """

    def __init__(self, reader: VideoReader | ImageSequenceReader | AnimationReader):
        self.times: dict[int, int] = {}
        self._reader = reader
        self._passes: list[_Pass] = []

    def close(self) -> None:
        """Closes the clip; no thread may be reading it."""
        while self._passes:
            self._passes.pop().close()

    def times_of(self, start: int, stop: int) -> list[int]:
        """Timestamps of frames [start, stop), in `info.time_base`."""
        return [self.times[number] for number in range(start, stop)]

    def read(self, scene: Scene, size: int) -> Generator[np.ndarray, None, None]:
        """Yields a scene's frames [f, H, W, C], `size` at a time.

        Raises:
          RunError: see `VideoReader.chunks`.
        """
        behind = [one for one in self._passes if one.position <= scene.start]
        one = max(behind, key=lambda one: one.position) if behind else _Pass(self._reader)
        if behind:
            self._passes.remove(one)
        try:
            while one.position < scene.start:
                one.next()
            for start in range(scene.start, scene.stop, size):
                numbers = range(start, min(start + size, scene.stop))
                frames, times = zip(*(one.next() for _ in numbers), strict=True)
                self.times.update(zip(numbers, times, strict=True))
                yield np.stack(frames)
        except BaseException:  # including GeneratorExit, if the caller stops early
            one.close()
            raise
        self._passes.append(one)


class _Pass:
    """One pass over a clip, frame by frame."""

    def __init__(self, reader: VideoReader | ImageSequenceReader | AnimationReader):
        self.position = 0
        self._chunks: Any = reader.chunks(1)
        self._frames = chain.from_iterable(zip(*chunk, strict=True) for chunk in self._chunks)

    def next(self) -> tuple[np.ndarray, int]:
        """The next frame, and its timestamp."""
        self.position += 1
        return next(self._frames)

    def close(self) -> None:
        """Closes the clip."""
        self._chunks.close()


def _rounded_up(length: int) -> int:
    """Rounds up to one of 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, ..."""
    step = 1 << max(0, (length - 1).bit_length() - 3)
    return -(-length // step) * step


def _thumbnails(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for frames in pieces:
        levels = 257.0 if frames.dtype == np.uint16 else 1.0
        for frame in frames:
            size = (min(_THUMBNAIL, frame.shape[1]), min(_THUMBNAIL, frame.shape[0]))
            yield cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.float32) / levels


def _with_end(thumbnails: Iterator[np.ndarray]) -> Iterator[np.ndarray | None]:
    yield from thumbnails
    yield None  # no frame follows the last one


def _is_cut(
    earlier: np.ndarray | None, before: np.ndarray, after: np.ndarray, later: np.ndarray | None
) -> bool:
    """Whether frame t begins a scene, from frames t-2, t-1, t, t+1 (None if there is no such frame)."""
    across = min(
        d for d in (_change(before, after), _change(before, later), _change(earlier, after)) if d is not None
    )
    motion = max(
        (d for d in (_change(earlier, before), _change(after, later)) if d is not None), default=np.inf
    )
    return across >= max(_LEAST_CHANGE, min(_OVER_MOTION * motion, _LARGEST_MOTION))


def _change(a: np.ndarray | None, b: np.ndarray | None) -> float | None:
    """Mean absolute difference; None if one of the frames does not exist."""
    return None if a is None or b is None else float(np.abs(a - b).mean())
