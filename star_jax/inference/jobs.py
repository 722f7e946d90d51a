"""Which clips are upscaled to which files, and what must hold before any work starts."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from star_jax.errors import InputError
from star_jax.inference.settings import UpscaleSettings
from star_jax.video.images import DEFAULT_FRAME_RATE, SUFFIXES, ImageSequenceReader, is_images, open_source
from star_jax.video.outputs import check_not_read, check_output_path, is_pattern
from star_jax.video.probe import VideoInfo
from star_jax.video.reader import VideoReader


@dataclass(frozen=True)
class Job:
    """One clip to upscale.

    Attributes:
      reader: of its frames.
      output: where they go.
      settings: how; `scale` may be the clip's own.
    """

    reader: VideoReader | ImageSequenceReader
    output: Path
    settings: UpscaleSettings

    @property
    def info(self) -> VideoInfo:
        return self.reader.info

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the input."""
        return self.info.height, self.info.width


def make_jobs(
    inputs: Sequence[str],
    output: str,
    settings: UpscaleSettings,
    *,
    resolution: int | None = None,
    frame_rate: Fraction | None = None,
    skip_existing: bool = False,
    truth: str | os.PathLike | None = None,
    quiet: bool = False,
) -> list[Job]:
    """Opens every input that is to be upscaled, and checks that its output can be written; see `upscale`."""
    if resolution is not None and resolution < 1:
        raise InputError(f"--resolution is {resolution}; choose pixels of the shorter side, such as 1080")
    outputs = output_paths(inputs, output)
    jobs = []
    for path, target in zip(inputs, outputs, strict=True):
        if skip_existing and is_there(target):
            if not quiet:
                print(f"{target} is there: {path} is skipped", file=sys.stderr)
            continue
        reader = open_source(path, frame_rate=frame_rate or DEFAULT_FRAME_RATE)
        check_output_path(target, reader.info)
        jobs.append(Job(reader, target, settings_for(reader.info, settings, resolution)))
    if frame_rate and not any(is_images(Path(path)) for path in inputs):
        raise InputError("--frame-rate is of folders of images; a video keeps its own")
    if truth and jobs:
        check_comparison(jobs, os.fspath(truth), num_inputs=len(inputs))
    pictures = [outputs[0].with_suffix(".png")] if truth else []
    check_not_read([*outputs, *pictures], [*inputs, *([truth] if truth else [])])
    return jobs


def settings_for(info: VideoInfo, settings: UpscaleSettings, resolution: int | None) -> UpscaleSettings:
    """The settings, with the scale that gives the shorter side `resolution` pixels, at least 1."""
    if resolution is None:
        return settings
    return dataclasses.replace(settings, scale=max(1.0, resolution / min(info.height, info.width)))


def is_there(output: Path) -> bool:
    """Whether an earlier run has written the output: unfinished ones never appear under their names."""
    if is_pattern(output):
        return output.parent.is_dir() and any(output.parent.iterdir())
    return output.exists()


def output_paths(inputs: Sequence[str], output: str) -> list[Path]:
    """One output file for one input; several inputs go into a folder, under their own names.

    Videos and folders of images become .mp4 there, single images .png.

    Raises:
      InputError: several inputs and no folder, or two inputs of the same name.
    """
    folder = Path(output)
    if len(inputs) == 1 and not folder.is_dir():
        return [folder]
    if not folder.is_dir():
        raise InputError(
            f"{output} is not a folder, but there are {len(inputs)} inputs; create the folder first"
        )
    names = [_output_name(Path(path).resolve()) for path in inputs]  # "." and ".." have no name of their own
    if len(set(names)) < len(names):
        raise InputError("two inputs have the same name; upscale them one by one")
    return [folder / name for name in names]


def _output_name(path: Path) -> str:
    if path.is_dir():
        return f"{path.name}.mp4"
    return f"{path.stem}.png" if path.suffix.lower() in SUFFIXES else f"{path.stem}.mp4"


def check_comparison(jobs: list[Job], truth: str, *, num_inputs: int) -> None:
    """Refuses, before anything starts, a ground truth that the output cannot be compared with.

    Raises:
      InputError: several inputs, an output that is no video file, or another size or number of frames.
    """
    if num_inputs > 1 or jobs[0].output.suffix.lower() == ".png":
        raise InputError("--compare takes one input and an output that is a video file")
    ours, theirs = jobs[0].info, open_source(truth).info
    size = jobs[0].settings.target_size(*jobs[0].size)
    if (theirs.num_frames, theirs.height, theirs.width) != (ours.num_frames, *size):
        raise InputError(
            f"--compare {truth} has {theirs.num_frames} frames of {theirs.height}x{theirs.width}; the output will "
            f"have {ours.num_frames} of {size[0]}x{size[1]}"
        )
