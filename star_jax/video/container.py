"""Opens video files, and says in one line what is wrong with those that do not open."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.stream import Disposition

from star_jax.errors import InputError


@contextmanager
def open_video(
    path: Path, num_threads: int = 1
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Opens a file and its video stream; cover pictures of audio files do not count as video.

    Raises:
        InputError: no such file, a folder, unreadable, not a video, or without a video stream.
    """
    check_readable(path)
    try:
        container = av.open(file_url(path))
    except (av.FFmpegError, UnicodeError) as error:
        raise InputError(
            f"cannot open {path} as a video: it is damaged, cut off, or no video; give a video file that plays"
        ) from error
    with container:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "no streams"
            raise InputError(f"{path} has no video stream (it has {kinds}); give a file with pictures")
        stream = streams[0]
        if stream.codec_context is None:
            raise InputError(f"{path} is in a format that cannot be decoded here; convert it to H.264 first")
        stream.codec_context.thread_count = num_threads
        stream.thread_type = "SLICE" if num_threads == 1 else "AUTO"
        yield container, stream


def file_url(path: Path) -> str:
    """Name of a local file for FFmpeg, which would take the colon in `take:2.mp4` for a protocol."""
    return f"file:{path}"


def check_readable(path: Path) -> None:
    """Raises InputError unless `path` is a file that can be opened and has content."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a video file, or a folder of .png or .jpg images")
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
