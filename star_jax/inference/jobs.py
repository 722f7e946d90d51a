"""Assigns clips to output files, and checks them before any work starts."""

import bisect
import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from star_jax.data.sources import VIDEO_SUFFIXES
from star_jax.errors import InputError
from star_jax.inference.resume import check_not_running
from star_jax.inference.settings import UpscaleSettings
from star_jax.video.animations import AnimationReader
from star_jax.video.images import ImageSequenceReader, is_images, is_still, open_source
from star_jax.video.outputs import check_not_read, check_output_path, is_pattern
from star_jax.video.part import part_of
from star_jax.video.probe import VideoInfo
from star_jax.video.reader import VideoReader

_ROUNDING = 1e-3  # seconds to which Matroska rounds the times of frames
Reader = VideoReader | ImageSequenceReader | AnimationReader
_PLACES = ("{name}", "{folder}")  # placeholders in the name of an output


@dataclass(frozen=True)
class Source:
    """A video, an image or a folder of images.

    Attributes:
      path: path as the user gave it, or a path below the folder that the user gave.
      folder: folder of the source, relative to the folder that the user gave.
    """

    path: Path
    folder: Path = Path()

    @property
    def name(self) -> str:
        """Name without the extension; "." and ".." are resolved first, because they are not names."""
        real = self.path.resolve()
        return real.name if self.path.is_dir() else real.stem

    @property
    def is_image(self) -> bool:
        """Whether the output is a single picture by default."""
        return is_still(self.path)


@dataclass(frozen=True)
class Part:
    """The part of each clip that is upscaled: frame numbers, or times such as 2.5s and 1:02:03.

    Attributes:
      start: first frame; None is the clip's first frame.
      length: length of the part; None is everything that follows.
    """

    start: str | None = None
    length: str | None = None

    def frames_of(self, info: VideoInfo, times: Sequence[int]) -> tuple[int, int]:
        """Range [first, last) of the part's frames, for a clip whose frames have these times in `info.time_base`.

        Raises:
          InputError: a value is neither a number nor a time, or the part begins after the clip's end.
        """
        seconds = [float((time - times[0]) * info.time_base) for time in times]
        start = 0 if self.start is None else _frame(self.start, seconds, 0.0, "--start")
        if start >= info.num_frames:
            raise InputError(
                f"--start is {self.start}, but {info.path} has only {info.num_frames} frames; choose an earlier one"
            )
        if self.length is None:
            return start, info.num_frames
        if self.length.isdigit():
            stop = start + int(self.length)
        else:
            stop = _frame(self.length, seconds, seconds[start], "--frames")
        if stop <= start:
            raise InputError(f"--frames is {self.length}; choose at least one frame")
        return start, min(stop, info.num_frames)


WHOLE = Part()


@dataclass(frozen=True)
class Job:
    """One clip to upscale.

    Attributes:
      reader: reader of the clip's frames.
      written: properties of the part that is upscaled.
      output: file, or pattern of files, to write.
      settings: settings of this job; `scale` may differ from clip to clip.
      frames: range [first, last) of the frames to upscale.
    """

    reader: Reader
    written: VideoInfo
    output: Path
    settings: UpscaleSettings
    frames: tuple[int, int]

    @property
    def info(self) -> VideoInfo:
        """Properties of the input."""
        return self.reader.info

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the input."""
        return self.info.height, self.info.width

    @property
    def target(self) -> Path:
        """Path that appears when the job is done: the output file, or the folder of numbered images."""
        return _target(self.output)

    @property
    def num_frames(self) -> int:
        """Number of frames of the output."""
        return self.frames[1] - self.frames[0]


def find_sources(inputs: Sequence[str | os.PathLike], *, recursive: bool = False) -> list[Source]:
    """Finds the clips to upscale: files, folders of images, and the videos in other folders.

    Args:
      inputs: files and folders.
      recursive: whether to look into subfolders.

    Raises:
      InputError: an input is standard input, or a folder has videos and images side by side.
    """
    sources = []
    for path in map(Path, inputs):
        if str(path) == "-":
            raise InputError("standard input (-) cannot be read twice; save it to a file first")
        if not path.is_dir():
            sources.append(Source(path))
        elif found := _in_folder(path, recursive=recursive):
            sources += found
        else:
            sources.append(Source(path))  # the reader reports what is wrong with it
    return sources


def output_paths(sources: Sequence[Source], output: str) -> list[Path]:
    """Determines the output path of each source.

    A pattern such as `out/{folder}/{name}_x4.mkv` is filled in. One source is written to the given file. Several
    are written into a folder, with the subfolders of the input: videos and folders of images as .mp4, images as
    .png.

    Raises:
      InputError: there are several inputs but no folder, or two inputs have the same output.
    """
    if any(place in output for place in _PLACES):
        paths = [
            Path(_fill_folder(output, source.folder).replace("{name}", source.name)) for source in sources
        ]
    else:
        folder = Path(output)
        in_folders = any(source.folder != Path() for source in sources)
        if len(sources) == 1 and not folder.is_dir() and not in_folders:
            return [folder]
        if not folder.is_dir():
            raise InputError(
                f"{output} is not a folder, but there are {len(sources)} inputs; create the folder first, or write "
                "a pattern such as out/{name}_x4.mp4"
            )
        paths = [
            folder / source.folder / f"{source.name}{'.png' if source.is_image else '.mp4'}"
            for source in sources
        ]
    if len(set(paths)) < len(paths):
        double = next(path for path in paths if paths.count(path) > 1)
        raise InputError(
            f"two inputs would both be written to {double}; upscale them one by one, or write {{folder}} in the "
            "output"
        )
    return paths


def make_job(
    source: Source,
    output: Path,
    settings: UpscaleSettings,
    *,
    resolution: int | None = None,
    part: Part = WHOLE,
    reading: Mapping[str, Any],
) -> Job:
    """Opens an input, and checks that its output can be written.

    Args:
      source: the input.
      output: the output; its folder is created if the source is in a subfolder of the input.
      settings: settings of the upscale; `resolution` overrides `scale`.
      resolution: pixels of the output's shorter side; None keeps `scale`.
      part: part of the clip to upscale.
      reading: arguments of `open_source`.

    Raises:
      InputError: the input cannot be read, or the output cannot be written.
    """
    reader = open_source(source.path, **reading)
    if source.folder != Path():
        output.parent.mkdir(parents=True, exist_ok=True)
    times = reader.times()
    frames = part.frames_of(reader.info, times)
    written = part_of(reader.info, times, *frames)
    check_output_path(output, written)
    check_not_running(_target(output))
    exact = dataclasses.replace(settings, exact_size=output.suffix.lower() == ".png")
    return Job(reader, written, output, settings_for(reader.info, exact, resolution), frames)


def settings_for(info: VideoInfo, settings: UpscaleSettings, resolution: int | None) -> UpscaleSettings:
    """The settings, with the scale (at least 1) that gives the shorter side `resolution` pixels."""
    if resolution is None:
        return settings
    return dataclasses.replace(settings, scale=max(1.0, resolution / min(info.height, info.width)))


def is_there(output: Path) -> bool:
    """Whether an earlier run has written the output; an unfinished output never has its final name."""
    if is_pattern(output):
        return output.parent.is_dir() and any(output.parent.iterdir())
    return output.exists()


def check_outputs(
    sources: Sequence[Source], outputs: Sequence[Path], truth: str | os.PathLike | None
) -> None:
    """Rejects outputs that would replace an input or each other; see `check_not_read`."""
    pictures = [outputs[0].with_suffix(".png")] if truth else []
    read = [source.path for source in sources]
    check_not_read([*outputs, *pictures], [*read, *([truth] if truth else [])])


def check_comparison(job: Job, truth: str | os.PathLike, *, num_inputs: int) -> None:
    """Checks, before the work starts, that the output can be compared with the ground truth.

    Raises:
      InputError: there are several inputs, the output is a picture, or size or number of frames differ.
    """
    if num_inputs > 1 or job.output.suffix.lower() == ".png":
        raise InputError("--compare needs a single input and a video file as output")
    theirs = open_source(truth).info
    size = job.settings.target_size(*job.size)
    if (theirs.num_frames, theirs.height, theirs.width) != (job.num_frames, *size):
        raise InputError(
            f"--compare {truth} has {theirs.num_frames} frames of {theirs.height}x{theirs.width}, but the output "
            f"will have {job.num_frames} of {size[0]}x{size[1]}; give a ground truth with the output's size and "
            "length"
        )


def _fill_folder(output: str, folder: Path) -> str:
    """Fills in the folder of a pattern, which is empty for sources directly in the given folder."""
    if folder == Path():
        return output.replace("{folder}/", "").replace("{folder}", "")
    return output.replace("{folder}", str(folder))


def _target(output: Path) -> Path:
    return output.parent if is_pattern(output) else output


def _in_folder(root: Path, *, recursive: bool) -> list[Source]:
    """The videos in a folder; with `recursive`, also the videos and the folders of images below it."""
    found = []
    for path in sorted(root.rglob("*") if recursive else root.iterdir()):
        relative = path.relative_to(root)
        if any(part.startswith(".") for part in relative.parts):
            continue
        is_video = path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES
        if is_video or (recursive and path.is_dir() and _has_images(path)):
            found.append(Source(path, relative.parent))
    if _has_images(root):
        if any(source.path.is_file() and source.folder == Path() for source in found):
            raise InputError(f"{root} has both videos and images; give the files, or move one kind elsewhere")
        return [Source(root), *found] if recursive else [Source(root)]
    return found


def _has_images(folder: Path) -> bool:
    return any(
        is_images(path) and path.is_file() and not path.name.startswith(".") for path in folder.iterdir()
    )


def _frame(text: str, seconds: Sequence[float], origin: float, option: str) -> int:
    """Frame number of `48`, or of the first frame that is `2.5s`, `1:02` or `1:02:03.5` after `origin`."""
    if text.isascii() and text.isdigit():
        return int(text)
    match = re.fullmatch(r"(?:(\d+):)?(?:(\d+):)?(\d+(?:\.\d*)?)s?", text, re.ASCII)
    if match is None or ("s" not in text and ":" not in text):
        raise InputError(f"{option} is {text!r}; give a number of frames, or a time such as 2.5s or 1:02:03")
    first, second, last = match.groups()
    hours, minutes = (first, second) if second is not None else (None, first)
    time = origin + int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(last)
    return bisect.bisect_left(seconds, time - _ROUNDING)
