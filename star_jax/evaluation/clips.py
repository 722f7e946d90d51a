"""Which result belongs to which ground truth: clips of two folders, matched by name, checked against each other."""

from dataclasses import dataclass
from pathlib import Path

from star_jax.data.sources import VIDEO_SUFFIXES
from star_jax.errors import InputError
from star_jax.evaluation.metrics import WINDOW
from star_jax.video.images import SUFFIXES, ImageSequenceReader, open_source
from star_jax.video.reader import VideoReader

Reader = VideoReader | ImageSequenceReader
_SHOWN = 5


@dataclass(frozen=True)
class ClipPair:
    """A clip to score.

    Attributes:
      name: of the result within its folder, without extension.
      result, truth: readers of as many frames each.
      low: reader of the low-resolution input, or None.
      height, width: the size that is scored: from the top-left corner of all of them.
    """

    name: str
    result: Reader
    truth: Reader
    low: Reader | None
    height: int
    width: int


def find_clips(path: Path) -> dict[str, Path]:
    """Lists the clips at a path by name, sorted.

    A video file or an image is one clip, and so is a folder that holds images. Of any other folder, the videos and
    the folders with images below it; their names are relative to it, without the video's extension.

    Raises:
      InputError: no such path, nothing in the folder, or two clips of one name.
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


def pair_clips(results: Path, truth: Path, low: Path | None = None, *, crop: bool = False) -> list[ClipPair]:
    """Finds each result's ground truth, and low-resolution input, and opens them.

    The partner of `seed_3/horse` is `seed_3/horse` if there is one, else `horse`: several sets of results may share
    one folder of ground truth. Two single clips belong together whatever their names.

    Args:
      results: a clip, or a folder of clips.
      truth: the same of the ground truth.
      low: the same of the low-resolution input.
      crop: score the top-left part that result and truth have in common, where their sizes differ.

    Raises:
      InputError: a clip without a partner, frame counts that differ, sizes that differ without `crop`, frames of
        less than 11 pixels, an input that cannot be the low resolution of the result, or an unreadable file.
    """
    found = find_clips(results)
    truths = _partners(found, find_clips(truth), "ground truth", truth)
    lows = _partners(found, find_clips(low), "low-resolution input", low) if low is not None else {}
    return [_open(name, found[name], truths[name], lows.get(name), crop) for name in found]


def _holds_images(folder: Path) -> bool:
    return any(f.suffix.lower() in SUFFIXES and not f.name.startswith(".") for f in folder.iterdir())


def _partners(results: dict[str, Path], others: dict[str, Path], kind: str, folder: Path) -> dict[str, Path]:
    """The partner of every result, each of `others` being one at least once."""
    if len(results) == len(others) == 1:
        return {name: path for name in results for path in others.values()}
    names = {name: name if name in others else name.rpartition("/")[2] for name in results}
    if lonely := [name for name, partner in names.items() if partner not in others]:
        raise InputError(f"no {kind} in {folder} for {_listed(lonely)}; give each the name of its result")
    if unused := sorted(others.keys() - set(names.values())):
        raise InputError(
            f"no result for {_listed(unused)} of {folder}; upscale what is missing, or take it out of the folder"
        )
    return {name: others[partner] for name, partner in names.items()}


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _open(name: str, result_path: Path, truth_path: Path, low_path: Path | None, crop: bool) -> ClipPair:
    result, truth = open_source(result_path), open_source(truth_path)
    low = open_source(low_path) if low_path is not None else None
    for other in (truth, low):
        if other is not None and other.info.num_frames != result.info.num_frames:
            raise InputError(
                f"{result_path} has {result.info.num_frames} frames, {other.info.path} {other.info.num_frames}; "
                "give clips of the same frames"
            )
    a, b = result.info, truth.info
    if (a.height, a.width) != (b.height, b.width) and not crop:
        raise InputError(
            f"{result_path} is {a.width}x{a.height}, {truth_path} {b.width}x{b.height}; "
            "--crop scores the top-left part that they share"
        )
    height, width = min(a.height, b.height), min(a.width, b.width)
    if min(height, width) < WINDOW:
        raise InputError(
            f"{result_path} gives {width}x{height} pixels to score; SSIM needs {WINDOW}x{WINDOW}"
        )
    if low is not None:
        _check_ratio(result, low)
    return ClipPair(name, result, truth, low, height, width)


def _check_ratio(result: Reader, low: Reader) -> None:
    """Both sides must have grown alike, to a pixel of the input, and of the output, whose sides are even."""
    across, down = result.info.width / low.info.width, result.info.height / low.info.height
    shrunk = result.info.width < low.info.width - 1 or result.info.height < low.info.height - 1
    rounded = 1 + low.info.width / low.info.height  # a pixel of either side, in pixels of the width
    if shrunk or abs(result.info.width - low.info.width * down) > max(across, down) + rounded:
        raise InputError(
            f"{low.info.path} is {low.info.width}x{low.info.height}, {result.info.path} "
            f"{result.info.width}x{result.info.height}: not the low resolution of that; check --input"
        )
