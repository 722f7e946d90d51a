"""Files and folders that appear under their names only when they are complete, and sizes as text."""

import contextlib
import fcntl
import glob
import hashlib
import json
import math
import os
import platform
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from star_jax.errors import InputError, RunError

BUCKETS = ("gs://", "s3://")  # prefixes of bucket URLs
_LONGEST_NAME = 255  # in bytes, on most file systems


@contextlib.contextmanager
def appearing(path: str | os.PathLike) -> Iterator[Path]:
    """Builds a file or a folder that appears under its name only when it is complete.

    Yields a hidden path beside `path`, with the same suffix and nothing there yet: write a file or make a folder
    there. When the block ends, it is renamed to `path` and replaces what was there. On any exception, including
    Ctrl-C, it is removed. Leftovers of killed processes of this machine for the same name are removed first.

    Args:
      path: final path of the file or folder; local, or in a bucket (gs://, s3://), where a rename is a copy.
    """
    target = _path(path)
    if not is_url(target):
        remove_abandoned(target.parent, "partial", target.name)
    partial = target.parent / process_name("partial", target.name)
    try:
        yield partial
        if target.is_dir():  # a rename cannot replace a folder with content
            replaced = target.parent / process_name("replaced", target.name)
            target.rename(replaced)
            partial.rename(target)
            _remove(replaced)
        else:
            partial.replace(target)
    finally:
        _remove(partial)


def is_url(path: str | os.PathLike) -> bool:
    """Whether a path names a protocol (`gs://...`) rather than a local file."""
    return "://" in os.fspath(path)


def _path(path: str | os.PathLike) -> Path:
    return epath.Path(path) if is_url(path) else Path(path)


def process_name(kind: str, name: str = "") -> str:
    """A hidden file name that contains its process, so that others can see whether that process still runs."""
    return f".{kind}.{platform.node()}.{os.getpid()}" + (f".{name}" if name else "")


def try_lock(descriptor: int) -> bool:
    """Takes the lock of an open file, which the system releases when the process ends in any way.

    Returns:
      False if another process holds the lock. On a file system without locks it counts as free.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def remove_abandoned(folder: str | os.PathLike, kind: str, name: str = "") -> None:
    """Removes files and folders that killed processes left under their `process_name`.

    Machines may share a folder, and each knows only its own processes, so files of other machines stay.
    """
    prefix, ending = f".{kind}.{platform.node()}.", f".{name}" if name else ""
    for left in Path(folder).glob(f"{glob.escape(prefix)}*{glob.escape(ending)}"):
        pid = left.name.removeprefix(prefix).removesuffix(ending)
        if pid.isdigit() and not _is_running(int(pid)):  # no number: from a machine with a similar name
            _remove(left)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()  # a file with our own ID is from an earlier process


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if is_url(path) and path.is_dir():
            epath.Path(path).rmtree()
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def real_path(path: str | os.PathLike) -> Path:
    """The path with symbolic links resolved, so that an output that is a link to another disk stays a link."""
    return Path(os.path.realpath(path))


def work_folder_path(path: str | os.PathLike) -> Path:
    """The hidden folder beside a file in which a long run keeps its partial results."""
    target = real_path(path)
    name = f".{target.name}.star-jax"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:32]}.star-jax"
    return target.with_name(name)


def draft_path(path: str | os.PathLike) -> Path:
    """A new name on the same disk for a file or folder that is not complete yet, to be moved to its real path.

    No two drafts have the same name, so that runs with the same output cannot harm each other. A draft lies in the
    output's work folder if there is one, else hidden beside the output.
    """
    target = real_path(path)
    name = f"draft.{secrets.token_hex(4)}{target.suffix}"
    folder = work_folder_path(target)
    return folder / name if folder.is_dir() else target.with_name(f".star-jax.{name}")


def check_report_path(path: str | os.PathLike, suffix: str) -> None:
    """Checks that a report can be written. Call it before the work starts.

    Raises:
      InputError: the suffix is wrong, the path is a folder, or its folder does not exist or is not writable.
    """
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise InputError(f"cannot write {path}; give a name that ends in {suffix}")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"cannot write {path}; give a file in a folder that exists and can be written to")


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file completely or not at all.

    Raises:
      RunError: the file cannot be written.
    """
    try:
        with appearing(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror}; check the folder and the free space"
        ) from error


def seal(values: dict[str, Any]) -> dict[str, Any]:
    """JSON-serialisable values with their hash, by which `check_seal` detects later changes."""
    text = json.dumps(values, sort_keys=True)
    return {**values, "sha256": hashlib.sha256(text.encode()).hexdigest()[:16]}


def check_seal(values: dict[str, Any]) -> None:
    """Compares values with their hash, if they have one.

    Raises:
      ValueError: the values were changed.
    """
    if "sha256" in values and seal({k: v for k, v in values.items() if k != "sha256"}) != values:
        raise ValueError("its content is not what was written")


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Writes a JSON-serialisable value, indented.

    Raises:
      RunError: the file cannot be written.
    """
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes a picture, uint8 [H, W, 3] RGB.

    Raises:
      RunError: the file cannot be written.
    """
    import cv2  # slow to import, and not needed by `star-jax --help`

    write_bytes(path, cv2.imencode(".png", image[..., ::-1])[1].tobytes())


def bytes_text(size: float, *, up: bool = False) -> str:
    """A number of bytes as text, such as `1.25 GiB` or `800 MiB`, rounded to hundredths (with `up`, upwards)."""
    value, unit = (size / 2**30 * 100, "GiB") if size >= 2**30 else (size / 2**20 * 100, "MiB")
    hundredths = math.ceil(value) if up else round(value)
    return f"{hundredths / 100:.2f}".rstrip("0").rstrip(".") + f" {unit}"


def parse_bytes(text: str, name: str) -> int:
    """A number of bytes from text such as `12GiB`, `12G`, `800M` or a plain number.

    Args:
      text: the user's text.
      name: name of the option, for the error message.

    Raises:
      InputError: the text is not a positive size.
    """
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    number = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = number[-1:] if number[-1:] in units else ""
    try:
        size = float(number.removesuffix(unit)) * units[unit]
    except ValueError:
        size = 0
    if not 0 < size < math.inf:
        raise InputError(f"{name} is {text!r}; give a size such as 12GiB or 800MiB")
    return int(size)
