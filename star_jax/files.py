"""Files and folders that appear under their names only when they are complete; sizes as text."""

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

BUCKETS = ("gs://", "s3://")  # what the addresses of buckets begin with
_LONGEST_NAME = 255  # bytes, of most file systems


@contextlib.contextmanager
def appearing(path: str | os.PathLike) -> Iterator[Path]:
    """Builds a file or a folder that has its name only when it is complete.

    Yields a hidden path beside `path` where nothing is yet, with the same suffix: write a file or make a folder
    there. When the block ends, it takes the name, in place of what had it. On any exception, Ctrl-C included, it is
    removed. What killed processes of this machine left of the same name is removed first.

    Args:
      path: where the file or folder appears; local, or on a bucket (gs://, s3://), where a rename is a copy.
    """
    target = _path(path)
    if not is_url(target):
        remove_abandoned(target.parent, "partial", target.name)
    partial = target.parent / process_name("partial", target.name)
    try:
        yield partial
        if target.is_dir():  # the system replaces no folder that has content
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
    """A hidden file name that tells its owner, so that others can see whether the process still lives."""
    return f".{kind}.{platform.node()}.{os.getpid()}" + (f".{name}" if name else "")


def try_lock(descriptor: int) -> bool:
    """Takes the lock of an open file, which the system releases when the process ends, however it ends.

    Returns:
      False where another process holds it. A file system without locks has it free.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def remove_abandoned(folder: str | os.PathLike, kind: str, name: str = "") -> None:
    """Removes what killed processes left under their `process_name`.

    Machines may share a folder, and each knows only its own processes: files of other machines stay.
    """
    prefix, ending = f".{kind}.{platform.node()}.", f".{name}" if name else ""
    for left in Path(folder).glob(f"{glob.escape(prefix)}*{glob.escape(ending)}"):
        pid = left.name.removeprefix(prefix).removesuffix(ending)
        if pid.isdigit() and not _is_running(int(pid)):  # else of a machine whose name begins like this one's
            _remove(left)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()  # our own number, from a process before us


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if is_url(path) and path.is_dir():
            epath.Path(path).rmtree()
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def real_path(path: str | os.PathLike) -> Path:
    """Where a file lies in truth: an output that is a link to another disk stays one."""
    return Path(os.path.realpath(path))


def work_folder_path(path: str | os.PathLike) -> Path:
    """The hidden folder beside a file where a long run keeps what it has done."""
    target = real_path(path)
    name = f".{target.name}.star-jax"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:32]}.star-jax"
    return target.with_name(name)


def draft_path(path: str | os.PathLike) -> Path:
    """A new name on the same disk for a file (or folder) that is not complete yet, to be moved to its real path.

    No two drafts have one name, so that runs with one output cannot harm each other. It lies in the output's work
    folder where there is one, else hidden beside the output.
    """
    target = real_path(path)
    name = f"draft.{secrets.token_hex(4)}{target.suffix}"
    folder = work_folder_path(target)
    return folder / name if folder.is_dir() else target.with_name(f".star-jax.{name}")


def check_report_path(path: str | os.PathLike, suffix: str) -> None:
    """Refuses a place where a report cannot go. Call it before the work starts.

    Raises:
      InputError: the suffix is another one, the path is a folder, or there is no folder to write in.
    """
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise InputError(f"cannot write {path}: give a name that ends in {suffix}")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"cannot write {path}: give a file in a folder that exists and can be written")


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file whole or not at all.

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
    """JSON-able values with a hash of them, by which `check_seal` knows whether they are still the same."""
    text = json.dumps(values, sort_keys=True)
    return {**values, "sha256": hashlib.sha256(text.encode()).hexdigest()[:16]}


def check_seal(values: dict[str, Any]) -> None:
    """Compares values with their hash, where they have one.

    Raises:
      ValueError: they were changed since.
    """
    if "sha256" in values and seal({k: v for k, v in values.items() if k != "sha256"}) != values:
        raise ValueError("its content is not what was written")


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Writes anything that JSON holds, indented.

    Raises:
      RunError: the file cannot be written.
    """
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes a picture, uint8 [H, W, 3] RGB.

    Raises:
      RunError: the file cannot be written.
    """
    import cv2  # which `star-jax --help` does without

    write_bytes(path, cv2.imencode(".png", image[..., ::-1])[1].tobytes())


def bytes_text(size: float, *, up: bool = False) -> str:
    """A number of bytes as text: `1.25 GiB`, `800 MiB`; rounded to hundredths, or up to the next."""
    value, unit = (size / 2**30 * 100, "GiB") if size >= 2**30 else (size / 2**20 * 100, "MiB")
    hundredths = math.ceil(value) if up else round(value)
    return f"{hundredths / 100:.2f}".rstrip("0").rstrip(".") + f" {unit}"


def parse_bytes(text: str, name: str) -> int:
    """A number of bytes from text: `12GiB`, `12G`, `800M` or a plain number.

    Args:
      text: what the user wrote.
      name: the option, for the message.

    Raises:
      InputError: the text is none of these.
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
