"""Checks of an output path, which are made before any work starts."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from star_jax.errors import InputError
from star_jax.video.probe import VideoInfo
from star_jax.video.tracks import FORMATS, check_streams, note_pictures

IMAGE_SUFFIX = ".png"
NUMBER = re.compile(r"%0?\d*d")


def check_output_path(path: str | Path, source: VideoInfo | None = None) -> Path:
    """Checks that frames can be written to `path`: a video with the sound of `source`, or PNG images.

    Args:
        path: .mp4, .mov, .mkv; `folder/%05d.png` for a folder of images; .png for a single image.
        source: properties of the input.

    Returns:
        `path` as a Path.

    Raises:
        InputError: the extension is unknown, the path is a folder or the input itself, its folder is missing or not
            writable, the container cannot hold the input's sound, a folder for images is not empty, or there are
            several frames for one image.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file name such as {path / 'upscaled.mp4'}")
    suffix = path.suffix.lower()
    if suffix == IMAGE_SUFFIX:
        _check_images(path, source)
        return path
    if suffix not in FORMATS:
        raise InputError(
            f"{path} has the extension {suffix or '(none)'}; choose {', '.join(FORMATS)} or {IMAGE_SUFFIX}"
        )
    _check_folder(path.parent)
    if source is not None and path.exists() and source.path.exists() and path.samefile(source.path):
        raise InputError(f"{path} is the input itself; choose another output name")
    if source is not None and not source.is_images:
        check_streams(path, source)
    elif source is not None:
        note_pictures(path, source)
    return path


def is_pattern(path: Path) -> bool:
    """Whether a path is a pattern for numbered images, such as `folder/%05d.png` (`50%.png` is not)."""
    return path.suffix.lower() == IMAGE_SUFFIX and NUMBER.search(path.name) is not None


def numbered(name: str, number: int) -> str:
    """Fills a number into a pattern."""
    return NUMBER.sub(lambda found: found[0] % number, name)


def check_not_read(written: Sequence[str | Path], read: Sequence[str | os.PathLike]) -> None:
    """Rejects outputs that would replace an input or each other.

    Args:
        written: files, or patterns in separate folders.
        read: files and folders of images.

    Raises:
        InputError: one of `written` is one of `read` or lies in one, or is given twice.
    """
    sources = {Path(path).resolve() for path in read}
    taken: set[Path] = set()
    for path in map(Path, written):
        target = (path.parent if is_pattern(path) else path).resolve()
        if target in sources or target.parent in sources:
            raise InputError(f"{path} is the input itself or lies in it; choose another output name")
        if target in taken:
            raise InputError(f"{target} would be written twice; give each output a different name")
        taken.add(target)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"folder {folder} does not exist; create it with: mkdir -p {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(
            f"no permission to write to {folder}; choose another folder, or change its permissions"
        )


def _check_images(path: Path, source: VideoInfo | None) -> None:
    if not is_pattern(path):
        if source is not None and source.num_frames > 1 and "%" in path.name:
            raise InputError(
                f"{path} is not a pattern for numbered images; write it like {path.parent / '%05d.png'}"
            )
        if source is not None and source.num_frames > 1:
            folder = path.with_suffix("")
            raise InputError(
                f"{path} can hold only one of {source.num_frames} frames; write to {folder}/%05d.png"
            )
        _check_folder(path.parent)
        if source is not None and path.exists() and path.samefile(source.path):
            raise InputError(f"{path} is the input itself; choose another output name")
        return
    if path.parent.is_dir() and any(path.parent.iterdir()):
        raise InputError(f"folder {path.parent} is not empty; give a new folder for the images")
    _check_folder(path.parent.parent)
