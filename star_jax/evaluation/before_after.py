"""A page to compare before and after: one HTML file with a border that follows the pointer.

All panels of a clip are stacked in the frames of one video, so that they play in sync in every browser; a canvas
shows one panel on the left and another on the right. The video is 8-bit H.264, which every browser plays, and is
embedded in the file, so that nothing else is needed to view it.
"""

import base64
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from star_jax.errors import InputError
from star_jax.evaluation.evaluate import evaluate
from star_jax.files import appearing, check_report_path
from star_jax.progress import progress as show_progress
from star_jax.video.animations import AnimationReader
from star_jax.video.images import ImageSequenceReader, open_source
from star_jax.video.reader import VideoReader
from star_jax.video.writer import VideoWriter

Reader = VideoReader | ImageSequenceReader | AnimationReader
_ALIGNMENT = 16  # panels start at multiples of this many rows, so that the codec's blocks do not mix them
_MOST_ROWS = 4320  # largest height of the video; larger frames are shown smaller
_QUALITY = 12.0
_FRAMES_AT_ONCE = 4


@dataclass(frozen=True)
class PageClip:
    """One clip of a page.

    Attributes:
      name: heading.
      panels: readers by label, in the order before, after, ground truth, all with the same number of frames. Sizes
        may differ: all panels are shown in the size of `after`.
      first_frame: first frame to show of the first panel, if it is longer than the others.
      facts: tables of names and values, by title.
    """

    name: str
    panels: Mapping[str, Reader]
    first_frame: int = 0
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def compare(
    before: str | os.PathLike,
    after: str | os.PathLike,
    output: str | os.PathLike,
    *,
    truth: str | os.PathLike | None = None,
    progress: bool = False,
) -> None:
    """Writes a page that compares two videos (or images, or folders of images) and shows their scores.

    Args:
      before: first video, such as the input of `upscale`; of any size.
      after: second video, such as the output.
      output: .html file.
      truth: ground truth, of the size of `after`, for a third panel and scores of the other two.
      progress: show a progress bar.

    Raises:
      InputError: a file cannot be read, or clips differ in length or aspect ratio.
      RunError: a file is damaged, or the disk is full.
    """
    check_report_path(output, ".html")
    panels = {"before": open_source(before), "after": open_source(after)}
    if truth is not None:
        panels["ground truth"] = open_source(truth)
    check_panels(panels)
    facts = {"Files": {label: describe(reader) for label, reader in panels.items()}}
    if truth is not None:
        facts["Scores"] = scores(before, after, truth)
    write_page(output, [PageClip(Path(after).name, panels, facts=facts)], progress=progress)


def scores(before: str | os.PathLike, after: str | os.PathLike, truth: str | os.PathLike) -> dict[str, str]:
    """Scores of the result and of the enlarged input, as a table of names and texts."""
    report = evaluate(after, truth, input=before)
    (result,) = (name for name in report.scores if name != report.baseline)
    assert report.baseline is not None  # the input is given
    means, baseline = report.means(result), report.means(report.baseline)
    return {
        name: f"{_text(value)} ({report.baseline}: {_text(baseline[name])})"
        for name, value in means.items()
        if value is not None
    }


def describe(reader: Reader) -> str:
    """A clip's file, size, length and frame rate."""
    info = reader.info
    return (
        f"{info.path}, {info.width}x{info.height}, {info.num_frames} frames, {float(info.frame_rate):g} fps"
    )


def write_page(
    output: str | os.PathLike,
    clips: Sequence[PageClip],
    *,
    progress: bool = False,
) -> None:
    """Writes a page that shows one of the clips at a time.

    Raises:
      RunError: a file is damaged, or the disk is full.
    """
    total = sum(list(clip.panels.values())[1].info.num_frames for clip in clips)
    with show_progress("Writing the page", total, "frames", quiet=not progress) as bar:
        data = json.dumps([_clip_data(clip, bar.advance) for clip in clips])
    template = (
        resources.files("star_jax.evaluation").joinpath("before_after.html").read_text(encoding="utf-8")
    )
    with appearing(output) as partial:
        partial.write_text(template.replace("{{data}}", data.replace("</", "<\\/")), encoding="utf-8")


def check_panels(panels: Mapping[str, Reader]) -> None:
    """Checks that clips can be compared frame by frame.

    Raises:
      InputError: numbers of frames or aspect ratios differ.
    """
    (first, second, *others) = panels.values()
    for other in (second, *others):
        if other.info.num_frames != first.info.num_frames:
            raise InputError(
                f"{first.info.path} has {first.info.num_frames} frames, but {other.info.path} has "
                f"{other.info.num_frames}; give clips of the same frames"
            )
        ratio = other.info.width / other.info.height * first.info.height / first.info.width
        if not 0.9 < ratio < 1.1:
            raise InputError(
                f"{first.info.path} is {first.info.width}x{first.info.height}, but {other.info.path} is "
                f"{other.info.width}x{other.info.height}: not the same picture; check the files"
            )


def _clip_data(clip: PageClip, on_frames: Callable[[int], None]) -> dict[str, Any]:
    """Data for the page's script."""
    info = list(clip.panels.values())[1].info
    height, width = _shown_size(info.height, info.width, len(clip.panels))
    stride = -(-height // _ALIGNMENT) * _ALIGNMENT
    frames = _stacked(clip, (height, width), stride, on_frames)
    is_video = info.num_frames > 1
    return {
        "name": clip.name,
        "panels": list(clip.panels),
        "width": width,
        "height": height,
        "stride": stride,
        "num_frames": info.num_frames,
        "rate": float(info.frame_rate),
        "is_video": is_video,
        "source": _video(frames, info.frame_rate) if is_video else _picture(next(frames)[0]),
        "facts": {title: {k: _text(v) for k, v in rows.items()} for title, rows in clip.facts.items()},
    }


def _shown_size(height: int, width: int, num_panels: int) -> tuple[int, int]:
    """(height, width) of a panel, even, and small enough for all panels to fit the video."""
    shrink = min(1.0, _MOST_ROWS / num_panels / (height + _ALIGNMENT))
    rows, columns = (max(2, 2 * round(side * shrink / 2)) for side in (height, width))
    return rows, columns


def _stacked(
    clip: PageClip, size: tuple[int, int], stride: int, on_frames: Callable[[int], None]
) -> Iterator[np.ndarray]:
    """Yields frames uint8 [1, panels x stride, W, 3]."""
    height, width = size
    starts = [clip.first_frame] + [0] * (len(clip.panels) - 1)
    sides = [_frames(reader, start) for reader, start in zip(clip.panels.values(), starts, strict=True)]
    for images in zip(*sides, strict=False):  # the first panel may be longer
        resized = [cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC) for image in images]
        padded = [np.pad(image, ((0, stride - height), (0, 0), (0, 0)), mode="edge") for image in resized]
        yield np.concatenate(padded)[None]
        on_frames(1)


def _frames(reader: Reader, start: int) -> Iterator[np.ndarray]:
    return itertools.islice(
        (frame for piece, _ in reader.chunks(_FRAMES_AT_ONCE) for frame in piece), start, None
    )


def _video(frames: Iterator[np.ndarray], rate: Fraction) -> str:
    first = next(frames)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.mp4"
        with VideoWriter(
            path, height=first.shape[1], width=first.shape[2], frame_rate=rate, crf=_QUALITY
        ) as writer:
            writer.write(first)
            for piece in frames:
                writer.write(piece)
        return f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _picture(frame: np.ndarray) -> str:
    data = cv2.imencode(".png", frame[..., ::-1])[1].tobytes()
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
