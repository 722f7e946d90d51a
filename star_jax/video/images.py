"""Images as a source and a target of frames: files in a folder, or a single image."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from star_jax.errors import DiskError, InputError, RunError
from star_jax.files import draft_path, real_path
from star_jax.video.animations import AnimationReader
from star_jax.video.color import to_depth, to_float
from star_jax.video.notes import note
from star_jax.video.outputs import check_output_path, is_pattern, numbered
from star_jax.video.pictures import SUFFIXES, Picture, inspect_picture, read_picture
from star_jax.video.png import encode_png
from star_jax.video.probe import VideoInfo
from star_jax.video.reader import VideoReader
from star_jax.video.timeline import OnScan
from star_jax.video.writer import Quality, VideoWriter

__all__ = ["SUFFIXES", "ImageSequenceReader", "ImageSequenceWriter", "open_source", "open_target"]

MAX_PNG_PIXELS = 1 << 30
DEFAULT_FRAME_RATE = Fraction(24)


def is_still(path: Path) -> bool:
    """Whether a path is a single picture, not an animation; if the file is damaged, only its name decides."""
    if not path.is_file() or path.suffix.lower() not in SUFFIXES:
        return False
    try:
        return inspect_picture(path).num_frames == 1
    except InputError:
        return True


def is_images(path: Path) -> bool:
    """Whether a path is read as images: it is a folder, or has the suffix of an image."""
    return path.is_dir() or path.suffix.lower() in SUFFIXES


def open_source(
    path: str | os.PathLike,
    *,
    frame_rate: Fraction = DEFAULT_FRAME_RATE,
    num_threads: int = 0,
    depth: int | None = 8,
    strict: bool = False,
    deinterlace: str = "auto",
    on_scan: OnScan | None = None,
) -> "VideoReader | ImageSequenceReader | AnimationReader":
    """Opens a video file, a folder of images, or an image.

    Args:
        path: file or folder.
        frame_rate: frame rate of images; a video has its own.
        num_threads: number of decoder threads for a video; 0 uses all cores.
        depth, strict, deinterlace, on_scan: see `VideoReader`; a video is decoded once to find irregularities.

    Raises:
        InputError: see `VideoReader` and `ImageSequenceReader`.
    """
    path = Path(path)
    if is_images(path):
        if not path.is_dir() and inspect_picture(path).num_frames > 1:
            return AnimationReader(path, frame_rate=frame_rate, depth=depth)
        return ImageSequenceReader(path, frame_rate=frame_rate, depth=depth, strict=strict)
    return VideoReader(
        path,
        num_threads=num_threads,
        depth=depth,
        scan=True,
        strict=strict,
        deinterlace=deinterlace,
        on_scan=on_scan,
    )


def open_target(
    path: str | Path,
    *,
    width: int,
    height: int,
    frame_rate: Fraction,
    crf: float = 17,
    preset: str = "medium",
    source: VideoInfo | None = None,
    quality: Quality | None = None,
) -> "VideoWriter | ImageSequenceWriter":
    """Opens a writer according to the extension of `path`; see `VideoWriter` for arguments and errors."""
    if Path(path).suffix.lower() == ".png":
        return ImageSequenceWriter(path, width=width, height=height, source=source)
    return VideoWriter(
        path,
        width=width,
        height=height,
        frame_rate=frame_rate,
        crf=crf,
        preset=preset,
        source=source,
        quality=quality,
    )


class ImageSequenceReader:
    """Images of one size as RGB frames, with the interface of `VideoReader`.

    A folder's images are read in natural order (frame2 before frame10). EXIF orientation is applied, and grey
    becomes RGB. Frames are uint8; with `depth` None they are uint16 if the images have more than 8 bits.
    Transparency is not in the frames; the writer of images reads it from the files.

    Args:
        path: a folder, or one image file.
        frame_rate: frames per second of the sequence.
        depth: 8, or None for the depth of the images.
        strict: whether to read all images first, and reject damaged ones.

    Raises:
        InputError: the path is missing or unreadable, the folder has no images, or a file is not an image or has
            another size than the first.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        frame_rate: Fraction = DEFAULT_FRAME_RATE,
        depth: int | None = 8,
        strict: bool = False,
    ):
        self.path = Path(path)
        self._files = _list_images(self.path) if self.path.is_dir() else [self.path]
        if not self._files:
            raise InputError(
                f"{self.path} is a folder without images; give one with {', '.join(sorted(SUFFIXES))} files"
            )
        self._facts = [inspect_picture(file) for file in self._files]
        first = self._facts[0]
        for file, facts in zip(self._files, self._facts, strict=True):
            if (facts.width, facts.height) != (first.width, first.height):
                raise InputError(
                    f"{file} is {facts.width}x{facts.height}, but the first image is {first.width}x{first.height}; "
                    "all images in a folder must have the same size"
                )
        if strict:
            for file in self._files:
                read_picture(file, strict=True)
        is_deep = any(facts.bit_depth > 8 for facts in self._facts)
        self._depth = depth if depth is not None or not is_deep else None
        self.dtype = np.dtype(np.uint16 if depth is None and is_deep else np.uint8)
        frame_rate = Fraction(frame_rate)
        self.info = VideoInfo(
            path=self.path,
            width=first.width,
            height=first.height,
            frame_rate=frame_rate,
            time_base=1 / frame_rate,
            start_time=Fraction(0),
            num_frames=len(self._files),
            duration=float(len(self._files) / frame_rate),
            is_images=True,
            bit_depth=16 if is_deep else 8,
            has_alpha=any(facts.has_alpha for facts in self._facts),
            has_profile=any(facts.profile for facts in self._facts),
            pictures=tuple(self._files),
        )

    def times(self) -> list[int]:
        """Timestamps of all frames in `info.time_base`."""
        return list(range(self.info.num_frames))

    def chunks(self, size: int) -> Iterator[tuple[np.ndarray, list[int]]]:
        """Yields (frames [f, H, W, 3], their timestamps), `size` at a time; see `VideoReader.chunks`."""
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        stamps = self.times()
        for start in range(0, len(stamps), size):
            stop = min(start + size, len(stamps))
            yield self._load(range(start, stop)), stamps[start:stop]

    def read(self, start: int = 0, count: int | None = None, stride: int = 1) -> np.ndarray:
        """Reads images start, start + stride, ...; returns [F, H, W, 3]; see `VideoReader.read`."""
        total = self.info.num_frames
        if start < 0 or stride < 1:
            raise ValueError(f"start must be at least 0 and stride at least 1, got {start} and {stride}")
        if count is None:
            count = max(0, -(-(total - start) // stride))
        wanted = range(start, start + count * stride, stride)
        if count < 1 or wanted[-1] >= total:
            raise InputError(
                f"{self.path} has {total} images, but {start} to {wanted.stop - stride} were requested"
            )
        return self._load(wanted)

    def _load(self, numbers: range) -> np.ndarray:
        return np.stack([to_depth(self._image(number), self.dtype) for number in numbers])

    def _image(self, number: int) -> np.ndarray:
        rgb = read_picture(self._files[number], depth=self._depth).rgb
        if rgb.shape != (self.info.height, self.info.width, 3):
            raise RunError(f"the size of {self._files[number]} has changed since it was opened; start again")
        return rgb


class ImageSequenceWriter:
    """Context manager that writes frames as PNG: `folder/%05d.png` numbered from 0, or one image.

    The folder (or the file) appears under its name only when everything is written.

    Args:
        path: pattern in a new or empty folder, or the name of a single image.
        width, height: size of the frames in pixels.
        source: properties of the input; transparency, profile and EXIF data come from its files.

    Raises:
        InputError: see `check_output_path`; also for too many pixels.
    """

    def __init__(self, path: str | Path, *, width: int, height: int, source: VideoInfo | None = None):
        self.path = check_output_path(path, source)
        self.num_frames = 0
        self._is_pattern = is_pattern(self.path)
        self._target = self.path.parent if self._is_pattern else self.path
        self.partial_path = draft_path(self._target)
        self._shape = (height, width, 3)
        self._pictures = source.pictures if source is not None else ()
        self._animation: AnimationReader | None = None
        is_animation = source is not None and (source.is_images or source.codec == "gif")
        if source is not None and source.has_alpha and is_animation and not source.pictures:
            self._animation, self._first = AnimationReader(source.path, depth=None), source.first_frame
        self._is_deep = source is not None and source.bit_depth > 8
        if source is not None and source.has_alpha and not is_animation:
            note(f"{source.path}: transparency is left out; it is kept for images and animations only")
        if width * height > MAX_PNG_PIXELS:
            raise InputError(f"{width}x{height} pixels are too many for a PNG; lower the scale")

    def __enter__(self) -> "ImageSequenceWriter":
        self._discard()
        if self._is_pattern:
            self.partial_path.mkdir()
        return self

    def write(self, frames: np.ndarray, pts: Sequence[int] | None = None) -> None:
        """Writes RGB frames [f, H, W, 3]: uint8, uint16 (16-bit PNG) or float in 0 to 1.

        Images have no times, so `pts` is ignored. Transparency (enlarged bicubically), colour profile and EXIF data
        come from the source's image with the same number; an animation has transparency only.

        Raises:
            RunError: there is a second frame for a single image, or a file cannot be written.
        """
        if frames.dtype.kind not in "uf" or frames.shape[1:] != self._shape:
            raise ValueError(
                f"expected uint8, uint16 or float [f, {self._shape}], got {frames.dtype} {frames.shape}"
            )
        if frames.dtype.kind == "f":
            frames = to_depth(frames, np.uint16 if self._is_deep else np.uint8)
        for image in frames:
            if self.num_frames and not self._is_pattern:
                raise RunError(f"{self.path} can hold only one of several frames; write to folder/%05d.png")
            file = (
                self.partial_path / numbered(self.path.name, self.num_frames)
                if self._is_pattern
                else self.partial_path
            )
            data = self._encode(image)
            try:
                file.write_bytes(data)
            except OSError as error:
                raise DiskError(
                    f"cannot write {file}: {error.strerror}; check the free space of the disk"
                ) from error
            self.num_frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._discard()
            return
        if not self.num_frames:
            self._discard()
            raise RunError(f"{self.path} was not written, because there were no frames")
        # An empty folder of that name is replaced; a folder with content was rejected at the start.
        self.partial_path.replace(real_path(self._target))

    def _encode(self, image: np.ndarray) -> bytes:
        if self._animation is not None:
            alpha = self._animation.picture(self._first + self.num_frames).alpha
            return encode_png(Picture(image, _enlarged(alpha, image)))
        if self.num_frames >= len(self._pictures):
            return encode_png(Picture(image))
        file = self._pictures[self.num_frames]
        facts = inspect_picture(file)
        alpha = read_picture(file, depth=None).alpha if facts.has_alpha else None
        return encode_png(Picture(image, _enlarged(alpha, image)), facts)

    def _discard(self) -> None:
        if self.partial_path.is_dir():
            shutil.rmtree(self.partial_path)
        else:
            self.partial_path.unlink(missing_ok=True)


def _enlarged(alpha: np.ndarray | None, image: np.ndarray) -> np.ndarray | None:
    """Transparency enlarged to the size and dtype of a picture."""
    if alpha is None:
        return None
    enlarged = cv2.resize(to_float(alpha), image.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return to_depth(np.clip(enlarged, 0, 1), image.dtype)


def _list_images(folder: Path) -> list[Path]:
    def natural(file: Path) -> list[tuple[int, int | str]]:
        parts = re.split(r"(\d+)", file.name)
        return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]

    try:
        files = [f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")]
    except PermissionError as error:
        raise InputError(
            f"no permission to read folder {folder}; change its permissions (chmod +rx)"
        ) from error
    return sorted(files, key=natural)
