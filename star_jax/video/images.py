"""Images as a source and a target of frames: PNG or JPEG files in a folder, or a single one."""

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
from star_jax.video.container import check_readable
from star_jax.video.outputs import check_output_path, is_pattern
from star_jax.video.probe import VideoInfo
from star_jax.video.reader import VideoReader
from star_jax.video.writer import Quality, VideoWriter

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
DEFAULT_FRAME_RATE = Fraction(24)


def is_images(path: Path) -> bool:
    """Whether a path is read as images: a folder, or an image's name."""
    return path.is_dir() or path.suffix.lower() in SUFFIXES


def open_source(
    path: str | Path,
    *,
    frame_rate: Fraction = DEFAULT_FRAME_RATE,
    num_threads: int = 0,
    depth: int | None = 8,
    strict: bool = False,
    deinterlace: str = "auto",
) -> "VideoReader | ImageSequenceReader":
    """Opens a video file, a folder of images, or an image, by what `path` is.

    Args:
        path: file or folder.
        frame_rate: of images; a video has its own.
        num_threads: decoder threads for a video; 0 takes all cores.
        depth, strict, deinterlace: see `VideoReader`; the file is decoded once to find what is odd about it.

    Raises:
        InputError: see `VideoReader` and `ImageSequenceReader`.
    """
    path = Path(path)
    if is_images(path):
        return ImageSequenceReader(path, frame_rate=frame_rate)
    return VideoReader(
        path, num_threads=num_threads, depth=depth, scan=True, strict=strict, deinterlace=deinterlace
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
    """Opens a writer by the extension of `path`; arguments and errors are those of `VideoWriter`."""
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
    """Images of one size as uint8 RGB frames, with the interface of `VideoReader`.

    A folder's images are taken in natural order (frame2 before frame10). EXIF orientation is applied, 16-bit images
    become 8-bit, grey becomes RGB, and transparency is dropped.

    Args:
        path: a folder, or one image file.
        frame_rate: frames per second of the sequence.

    Raises:
        InputError: no such path, no images in the folder, no permission, or a first image that is not one.
    """

    def __init__(self, path: str | Path, *, frame_rate: Fraction = DEFAULT_FRAME_RATE):
        self.path = Path(path)
        self._files = _list_images(self.path) if self.path.is_dir() else [self.path]
        if not self._files:
            raise InputError(
                f"{self.path} is a folder without images; expected {', '.join(sorted(SUFFIXES))} files in it"
            )
        frame_rate = Fraction(frame_rate)
        height, width, _ = _read_image(self._files[0]).shape
        self.info = VideoInfo(
            path=self.path,
            width=width,
            height=height,
            frame_rate=frame_rate,
            time_base=1 / frame_rate,
            start_time=Fraction(0),
            num_frames=len(self._files),
            duration=float(len(self._files) / frame_rate),
            is_images=True,
        )

    def chunks(self, size: int) -> Iterator[tuple[np.ndarray, list[int]]]:
        """Yields (frames uint8 [f, H, W, 3], their numbers), `size` at a time; see `VideoReader.chunks`."""
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        for start in range(0, len(self._files), size):
            stop = min(start + size, len(self._files))
            yield self._load(range(start, stop)), list(range(start, stop))

    def read(self, start: int = 0, count: int | None = None, stride: int = 1) -> np.ndarray:
        """Reads images start, start + stride, ...; returns uint8 [F, H, W, 3]; see `VideoReader.read`."""
        total = len(self._files)
        if start < 0 or stride < 1:
            raise ValueError(f"start must be at least 0 and stride at least 1, got {start} and {stride}")
        if count is None:
            count = max(0, -(-(total - start) // stride))
        wanted = range(start, start + count * stride, stride)
        if count < 1 or wanted[-1] >= total:
            raise InputError(
                f"{self.path} has {total} images; numbers {start} to {wanted.stop - stride} were asked"
            )
        return self._load(wanted)

    def _load(self, numbers: range) -> np.ndarray:
        images = []
        for number in numbers:
            image = _read_image(self._files[number])
            if image.shape != (self.info.height, self.info.width, 3):
                raise InputError(
                    f"{self._files[number]} is {image.shape[1]}x{image.shape[0]}, the first image "
                    f"{self.info.width}x{self.info.height}; all images of a folder must have one size"
                )
            images.append(image)
        return np.stack(images)


class ImageSequenceWriter:
    """Context manager that writes frames as PNG: `folder/%05d.png` numbered from 0, or one image.

    The folder (or the file) appears under its name only when all went well.

    Args:
        path: pattern in a new or empty folder, or the name of a single image.
        width, height: size of the frames in pixels.
        source: what is read, for the checks.

    Raises:
        InputError: see `check_output_path`.
    """

    def __init__(self, path: str | Path, *, width: int, height: int, source: VideoInfo | None = None):
        self.path = check_output_path(path, source)
        self.num_frames = 0
        self._is_pattern = is_pattern(self.path)
        self._target = self.path.parent if self._is_pattern else self.path
        self.partial_path = draft_path(self._target)
        self._shape = (height, width, 3)

    def __enter__(self) -> "ImageSequenceWriter":
        self._discard()
        if self._is_pattern:
            self.partial_path.mkdir()
        return self

    def write(self, frames: np.ndarray, pts: Sequence[int] | None = None) -> None:
        """Writes frames uint8 [f, H, W, 3], RGB; images have no times, so `pts` is not used.

        Raises:
            RunError: a second frame for a single image, or a file that cannot be written.
        """
        if frames.dtype != np.uint8 or frames.shape[1:] != self._shape:
            raise ValueError(f"expected uint8 [f, {self._shape}], got {frames.dtype} {frames.shape}")
        for image in frames:
            if self.num_frames and not self._is_pattern:
                raise RunError(f"{self.path} is one image for several frames; write to a folder/%05d.png")
            file = (
                self.partial_path / (self.path.name % self.num_frames)
                if self._is_pattern
                else self.partial_path
            )
            _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            try:
                file.write_bytes(data.tobytes())
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
            raise RunError(f"{self.path} was not written: no frame came")
        # An empty folder of that name is replaced; one with content was refused at the start.
        self.partial_path.replace(real_path(self._target))

    def _discard(self) -> None:
        if self.partial_path.is_dir():
            shutil.rmtree(self.partial_path)
        else:
            self.partial_path.unlink(missing_ok=True)


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


def _read_image(file: Path) -> np.ndarray:
    check_readable(file)
    image = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"cannot read {file} as an image; it is damaged or no image: replace or remove it")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
