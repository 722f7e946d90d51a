"""Pairs results with ground truths: clips of two folders are matched by name and checked against each other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from star_jax.data.sources import VIDEO_SUFFIXES
from star_jax.errors import InputError
from star_jax.video.animations import AnimationReader
from star_jax.video.images import SUFFIXES, ImageSequenceReader, open_source
from star_jax.video.reader import VideoReader

Reader = VideoReader | ImageSequenceReader | AnimationReader
_SHOWN = 5


@dataclass(frozen=True)
class ClipPair:
    """A clip to score.

    Attributes:
      name: name of the result within its folder, without extension.
      result: reader of the result.
      truth: reader of the ground truth, or None.
      low: reader of the low-resolution input, or None.
      frames: numbers of the frames that are scored.
      height, width: size of the part that is scored, from the top-left corner of result and ground truth.
    """

    name: str
    result: Reader
    truth: Reader | None
    low: Reader | None
    frames: Sequence[int]
    height: int
    width: int

    def pieces(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray | None, np.ndarray | None]]:
        """Yields the scored frames, `size` at a time: result and truth (cropped) and input, uint8 [n, H, W, 3]."""
        readers = [reader for reader in (self.result, self.truth, self.low) if reader is not None]
        for pieces in zip(*(_chosen(reader, self.frames, size) for reader in readers), strict=True):
            left = iter(pieces)
            result = self.top_left(next(left))
            truth = self.top_left(next(left)) if self.truth is not None else None
            yield result, truth, next(left, None)

    def top_left(self, frames: np.ndarray) -> np.ndarray:
        """The part of frames [..., H, W, 3] that is scored."""
        return frames[..., : self.height, : self.width, :]


def find_clips(path: Path) -> dict[str, Path]:
    """Lists the clips at a path by name, sorted.

    A video file or an image is one clip, and so is a folder that contains images. In any other folder, the clips
    are all videos and folders of images below it; their names are relative to it, without the video's extension.

    Raises:
      InputError: the path does not exist, the folder has no clips, or two clips have the same name.
    """
    if not path.exists():
        raise InputError(f"no such file or folder: {path}; check the path")
    if path.is_file() or _holds_images(path):
        return {path.stem if path.is_file() else path.resolve().name: path}
    clips: dict[str, Path] = {}
    for entry in sorted(path.rglob("*")):
        relative = entry.relative_to(path)
        if any(part.startswith(".") for part in relative.parts):
            continue
        if entry.is_dir() and _holds_images(entry):
            name = relative.as_posix()
        elif entry.is_file() and entry.suffix.lower() in VIDEO_SUFFIXES:
            name = relative.with_suffix("").as_posix()
        else:
            continue
        if name in clips:
            raise InputError(f"{clips[name]} and {entry} are both named {name!r}; rename one of them")
        clips[name] = entry
    if not clips:
        raise InputError(f"{path} has neither videos nor folders of images in it; check the path")
    return clips


def pair_clips(
    results: Path,
    truth: Path | None,
    low: Path | None = None,
    *,
    crop: bool = False,
    num_frames: int | None = None,
    frames: Sequence[int] | None = None,
    shorter: bool = False,
) -> list[ClipPair]:
    """Finds each result's ground truth and low-resolution input, and opens them.

    The partner of `seed_3/horse` is `seed_3/horse` if there is one, else `horse`, so that several sets of results
    may share one folder of ground truth. Two single clips are partners whatever their names are.

    Args:
      results: a clip, or a folder of clips.
      truth: ground truth, in the same form, or None.
      low: low-resolution input, in the same form, or None.
      crop: whether to score the common top-left part of result and truth if their sizes differ.
      num_frames: number of first frames to score; clips may then be longer, and differ in length.
      frames: numbers of the only frames to score.
      shorter: whether to score the first frames that all clips have if their lengths differ.

    Raises:
      InputError: a clip has no partner or too few frames, numbers of frames differ without `shorter`, sizes differ
        without `crop`, an input cannot be the low resolution of the result, or a file cannot be read.
    """
    found = find_clips(results)
    truths = _partners(found, find_clips(truth), "ground truth", truth) if truth is not None else {}
    lows = _partners(found, find_clips(low), "low-resolution input", low) if low is not None else {}
    if frames is None and num_frames is not None:
        frames = range(num_frames)
    return [
        _open(name, found[name], truths.get(name), lows.get(name), crop, frames, shorter) for name in found
    ]


def _holds_images(folder: Path) -> bool:
    return any(f.suffix.lower() in SUFFIXES and not f.name.startswith(".") for f in folder.iterdir())


def _partners(results: dict[str, Path], others: dict[str, Path], kind: str, folder: Path) -> dict[str, Path]:
    """The partner of every result.

    Raises:
      InputError: a result has no partner, or one of `others` is nobody's partner.
    """
    if len(results) == len(others) == 1:
        return {name: path for name in results for path in others.values()}
    names = {name: name if name in others else name.rpartition("/")[2] for name in results}
    if lonely := [name for name, partner in names.items() if partner not in others]:
        raise InputError(f"no {kind} in {folder} for {_listed(lonely)}; give each the name of its result")
    if unused := sorted(others.keys() - set(names.values())):
        raise InputError(
            f"no result for {_listed(unused)} in {folder}; upscale these clips, or take them out of the folder"
        )
    return {name: others[partner] for name, partner in names.items()}


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _open(
    name: str,
    result_path: Path,
    truth_path: Path | None,
    low_path: Path | None,
    crop: bool,
    frames: Sequence[int] | None,
    shorter: bool,
) -> ClipPair:
    result = open_source(result_path)
    truth, low = (open_source(path) if path is not None else None for path in (truth_path, low_path))
    readers = [reader for reader in (result, truth, low) if reader is not None]
    if frames is None and shorter:
        frames = range(min(reader.info.num_frames for reader in readers))
    for reader in readers:
        count, first = reader.info.num_frames, result.info.num_frames
        if frames is not None and count <= max(frames):
            raise InputError(
                f"{reader.info.path} has {count} frames, but frame {max(frames)} is needed; give a longer clip"
            )
        if frames is None and count != first:
            raise InputError(
                f"{result_path} has {first} frames, but {reader.info.path} has {count}; give clips of the same "
                "frames, or the number of first frames to score with --frames"
            )
    height, width = result.info.height, result.info.width
    if truth is not None:
        if (height, width) != (truth.info.height, truth.info.width) and not crop:
            raise InputError(
                f"{result_path} is {width}x{height}, but {truth_path} is {truth.info.width}x{truth.info.height}; "
                "pass --crop to score the top-left part that they share"
            )
        height, width = min(height, truth.info.height), min(width, truth.info.width)
    if low is not None:
        _check_ratio(result, low)
    numbers = range(result.info.num_frames) if frames is None else frames
    return ClipPair(name, result, truth, low, numbers, height, width)


def _chosen(reader: Reader, numbers: Sequence[int], size: int) -> Iterator[np.ndarray]:
    """Yields the frames with these numbers, `size` at a time."""
    if numbers != range(len(numbers)):
        for start in range(0, len(numbers), size):
            yield np.concatenate([reader.read(number, 1) for number in numbers[start : start + size]])
        return
    left = len(numbers)
    for frames, _ in reader.chunks(size):
        yield frames[:left]
        left -= len(frames)
        if left <= 0:
            return


def _check_ratio(result: Reader, low: Reader) -> None:
    """Checks that width and height are scaled alike, up to a pixel of the input and of the output (even sides).

    Raises:
      InputError: they are not.
    """
    across, down = result.info.width / low.info.width, result.info.height / low.info.height
    shrunk = result.info.width < low.info.width - 1 or result.info.height < low.info.height - 1
    rounded = 1 + low.info.width / low.info.height  # a pixel of either side, in pixels of the width
    if shrunk or abs(result.info.width - low.info.width * down) > max(across, down) + rounded:
        raise InputError(
            f"{low.info.path} is {low.info.width}x{low.info.height}, which cannot be the low resolution of "
            f"{result.info.path}, {result.info.width}x{result.info.height}; check --input"
        )
