"""Turns a record into a training element: cuts a clip from a video, fits it to the bucket, degrades it."""

import contextlib
import dataclasses
from collections.abc import Iterator

import av
import cv2
import numpy as np

from star_jax.data import storage
from star_jax.data.config import DataConfig
from star_jax.data.degradations import degrade
from star_jax.data.made_up.scenes import SceneVideo
from star_jax.data.made_up.synthetic import SyntheticVideo
from star_jax.data.records import BadClipError, ClipRecord, Element, Loadable
from star_jax.data.rng import generator
from star_jax.data.stopwatch import Stopwatch
from star_jax.errors import StarError
from star_jax.video.reader import VideoReader


@dataclasses.dataclass(frozen=True)
class Clip:
    """Frames cut from a record, before they are degraded.

    Attributes:
      truth: uint8 [F, H, W, 3].
      low: uint8 [F, h, w, 3] if the source has pairs, else None.
      text: the caption.
    """

    truth: np.ndarray
    low: np.ndarray | None
    text: str


def load_element(
    record: ClipRecord | Loadable, config: DataConfig, index: int, stopwatch: Stopwatch | None = None
) -> Element:
    """Loads the element at one position of the stream from a record of any source; see `load_clip`.

    Raises:
      BadClipError: the record is unusable.
    """
    if isinstance(record, ClipRecord):
        return load_clip(record, config, index, stopwatch)
    return record.load(config, index, stopwatch)


def load_clip(
    record: ClipRecord, config: DataConfig, index: int, stopwatch: Stopwatch | None = None
) -> Element:
    """Loads the element at one position of the stream.

    Every random choice follows from (config.seed, index).

    Args:
      record: the video.
      config: configuration of the data.
      index: position in the stream, over all epochs and processes.
      stopwatch: adds up the seconds of each stage.

    Returns:
      `gt` uint8 [F, H, W, 3], `lq` uint8 [F, h, w, 3], `text`, `key`, `index`.

    Raises:
      BadClipError: the record is unusable.
    """
    clip = cut_clip(record, config, index, stopwatch)
    truth, low = clip.truth, clip.low
    if low is None:
        truth, low = degrade(truth, config.make_recipe(), config.seed, index, stopwatch=stopwatch)
    dropped = generator(config.seed, "caption", index).random() < config.caption_dropout
    return {"gt": truth, "lq": low, "text": "" if dropped else clip.text, "key": record.key, "index": index}


def cut_clip(record: ClipRecord, config: DataConfig, index: int, stopwatch: Stopwatch | None = None) -> Clip:
    """Decodes a random clip of a record, fits it to the bucket and may mirror it.

    Arguments and errors: see `load_clip`.
    """
    stopwatch = stopwatch or Stopwatch()
    rng = generator(config.seed, "clip", index)
    try:
        with _open(record.video) as video, stopwatch("decode"):
            start, stride = _draw_start(video.num_frames, config, rng)
            frames = video.read(start, config.num_frames, stride)
            low = _read_partner(record, start, stride, config)
        text = record.caption()
    except (StarError, av.FFmpegError, OSError, UnicodeDecodeError) as error:
        raise BadClipError(str(error)) from error
    box = _draw_box(frames.shape[1:3], config, rng)
    flip = rng.random() < config.flip_probability
    size = (config.height, config.width)
    with stopwatch("resize and crop"):
        if low is not None:
            low = _fit(low, box, _partner_size(frames, low, size), flip)
        return Clip(_fit(frames, box, size, flip), low, text)


class _FileVideo:
    """A VideoReader behind the interface of SyntheticVideo."""

    def __init__(self, path):
        self._reader = VideoReader(path, num_threads=1)  # the loader's workers are the parallelism
        self.num_frames = self._reader.info.num_frames
        self.read = self._reader.read


@contextlib.contextmanager
def _open(
    video: str | SyntheticVideo | SceneVideo,
) -> Iterator[_FileVideo | SyntheticVideo | SceneVideo]:
    if isinstance(video, (SyntheticVideo, SceneVideo)):
        yield video
        return
    with storage.local_file(video) as path:
        yield _FileVideo(path)


def _draw_start(num_frames: int, config: DataConfig, rng: np.random.Generator) -> tuple[int, int]:
    """First frame and stride of a random clip; a short video lowers the stride."""
    if num_frames < config.num_frames:
        raise BadClipError(f"too short: {num_frames} frames, {config.num_frames} needed")
    longest = (num_frames - 1) // (config.num_frames - 1) if config.num_frames > 1 else 1
    stride = min(config.frame_interval, longest)
    span = (config.num_frames - 1) * stride + 1
    return int(rng.integers(num_frames - span + 1)), stride


def _read_partner(record: ClipRecord, start: int, stride: int, config: DataConfig) -> np.ndarray | None:
    if record.low_video is None:
        return None
    with _open(record.low_video) as video:
        if video.num_frames < start + (config.num_frames - 1) * stride + 1:
            raise BadClipError(f"{record.low_video} has {video.num_frames} frames, fewer than {record.video}")
        return video.read(start, config.num_frames, stride)


Box = tuple[float, float, float, float]


def _draw_box(size: tuple[int, int], config: DataConfig, rng: np.random.Generator) -> Box:
    """Draws (top, left, bottom, right) of the largest region with the bucket's shape, as fractions of the frame."""
    scale = max(config.height / size[0], config.width / size[1])
    if scale > config.max_upscale:
        raise BadClipError(
            f"too small: {size[0]}x{size[1]} for {config.height}x{config.width} (data.max_upscale "
            f"{config.max_upscale:g})"
        )
    height, width = (
        min(1.0, want / (scale * have))
        for want, have in zip((config.height, config.width), size, strict=True)
    )
    top, left = rng.random() * (1 - height), rng.random() * (1 - width)
    return top, left, top + height, left + width


def _partner_size(frames: np.ndarray, low: np.ndarray, truth_size: tuple[int, int]) -> tuple[int, int]:
    """Size of the low-resolution clip: the bucket divided by the ratio of the two videos."""
    ratio = frames.shape[1] / low.shape[1]
    if abs(frames.shape[2] / low.shape[2] - ratio) > 0.02 * ratio:
        raise BadClipError(
            f"the aspect ratios of ground truth {frames.shape[1:3]} and low resolution {low.shape[1:3]} differ"
        )
    return tuple(round(size / ratio) for size in truth_size)


def _fit(frames: np.ndarray, box: Box, size: tuple[int, int], flip: bool) -> np.ndarray:
    """Crops a region and resizes it to [F, *size, 3]: by area if it shrinks, else bicubically."""
    height, width = frames.shape[1:3]
    top, bottom = (round(share * height) for share in (box[0], box[2]))
    left, right = (round(share * width) for share in (box[1], box[3]))
    shrinks = bottom - top > size[0]
    result = np.empty((len(frames), *size, 3), np.uint8)
    for frame, target in zip(frames, result, strict=True):
        region = frame[top:bottom, left:right]
        if region.shape[:2] != size:
            mode = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
            region = cv2.resize(np.ascontiguousarray(region), size[::-1], interpolation=mode)
        if flip:
            cv2.flip(np.ascontiguousarray(region), 1, dst=target)
        else:
            target[:] = region
    return result
