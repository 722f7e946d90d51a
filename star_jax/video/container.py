"""Opens video files; if a file cannot be opened, the error says in one line what is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.stream import Disposition

from star_jax.errors import InputError

# Video streams with these flags are covers and thumbnails, not the film.
NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails
# Decoders that deadlock with one thread per picture if a damaged picture refers to itself.
WAITS_FOR_EVER = {"hevc"}


@contextmanager
def open_video(
    path: Path, num_threads: int = 1
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Opens a file and its video stream; see `film_stream`.

    Raises:
        InputError: the path is missing, a folder or a pipe, or the file is unreadable, not a video, or has no
            video stream that can be decoded.
    """
    check_readable(path)
    with open_container(path) as container:
        stream = film_stream(container)
        if stream is None:
            kinds = {"a cover picture" if s.type == "video" else s.type for s in container.streams}
            found = ", ".join(sorted(kinds)) or "no streams"
            raise InputError(f"{path} has no video stream (it has {found}); give a video file")
        if stream.codec_context is None:
            is_picture = container.format.name.endswith("_pipe") or container.format.name.startswith("jpegxl")
            remedy = "convert it to PNG first" if is_picture else "convert it to H.264 first"
            raise InputError(f"{path} has a format that cannot be decoded; {remedy}")
        stream.codec_context.thread_count = num_threads
        in_slices = num_threads == 1 or stream.codec_context.name in WAITS_FOR_EVER
        stream.thread_type = "SLICE" if in_slices else "AUTO"
        yield container, stream


def open_container(path: Path) -> av.container.InputContainer:
    """Opens a file for reading; tags that are not UTF-8 are decoded as Latin-1.

    Raises:
        InputError: FFmpeg cannot open it.
    """
    try:
        try:
            return av.open(file_url(path))
        except UnicodeError:
            return av.open(file_url(path), metadata_encoding="latin-1")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError(
            f"cannot open {path} as a video: it is damaged, cut off or not a video; give a video file that plays"
        ) from error


def film_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The video stream that players show: one flagged as default, else the largest, else the first; or None."""

    def rank(stream: av.VideoStream) -> tuple[bool, int]:
        context = stream.codec_context
        area = context.width * context.height if context is not None else 0
        return bool(stream.disposition & Disposition.default), area

    return max((s for s in container.streams.video if not s.disposition & NO_FILM), key=rank, default=None)


def file_url(path: Path) -> str:
    """URL of a local file for FFmpeg, which would otherwise read `take:2.mp4` as a protocol and a name."""
    return f"file:{path}"


def check_readable(path: Path) -> None:
    """Checks that a path is a file that can be opened and is not empty.

    Raises:
        InputError: it is not.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a video file, or a folder of .png or .jpg images")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is a pipe or a device, which cannot be read twice; save it to a file first")
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except FileNotFoundError as error:
        raise InputError(f"no such file: {path}; check the path") from error
    except PermissionError as error:
        raise InputError(f"no permission to read {path}; change its permissions (chmod +r)") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check the path and the disk") from error
    if not first:
        raise InputError(f"{path} is empty (0 bytes); copy or download it again")
