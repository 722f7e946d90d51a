"""Keeps the finished work of a long run beside its output, so that a run that was killed can resume.

The folder `.OUT.star-jax` holds arrays by name (latents, frames), each in a file that appears when it is complete
and contains checksums: a file that a power failure cut off is ignored. Work with other inputs, settings, weights or
versions is removed. The folder is locked while a run uses it, and removed when the output is complete.
"""

import contextlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np

from star_jax.diffusion.solvers import SamplerState
from star_jax.errors import DiskError, InputError, StarError
from star_jax.files import real_path, try_lock, work_folder_path

_LOCK, _JOB = "lock", "job.json"
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]  # fast: the disk is the limit, not the size


class Kept:
    """Arrays by name in a folder; without a folder, nothing is kept."""

    def __init__(self, folder: Path | None = None, prefix: str = "", *, with_frames: bool = True):
        self._folder, self._prefix, self._with_frames = folder, prefix, with_frames

    def part(self, name: str) -> "Kept":
        """A view in which all names have a prefix."""
        return Kept(self._folder, f"{self._prefix}{name}.", with_frames=self._with_frames)

    def has(self, name: str) -> bool:
        """Whether there is an array of that name; `load` checks whether it is complete."""
        return self._folder is not None and self._path(name).exists()

    def load(self, name: str) -> np.ndarray | None:
        """The array of that name; None if it was not kept or is damaged."""
        if self._folder is None:
            return None
        try:
            with np.load(self._path(name)) as file:  # checks every member's checksum
                if "array" in file:
                    return file["array"]
                return np.stack([_from_png(file[key]) for key in sorted(file, key=int)])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            self.drop(name)
            return None

    def save(self, name: str, array: np.ndarray) -> None:
        """Keeps an array.

        Raises:
          DiskError: the disk is full.
        """
        self._save(name, {"array": array})

    def save_frames(self, name: str, frames: np.ndarray) -> None:
        """Keeps frames, uint8 or uint16 [f, H, W, C], as lossless pictures, of about half the size.

        Raises:
          DiskError: the disk is full.
        """
        if self._with_frames:
            self._save(name, {str(i): cv2.imencode(".png", frame, _PNG)[1] for i, frame in enumerate(frames)})

    def drop(self, name: str) -> None:
        """Removes an array if it exists."""
        if self._folder is not None:
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{self._prefix}{name}.npz"

    def _save(self, name: str, content: dict[str, Any]) -> None:
        if self._folder is None:
            return
        path = self._path(name)
        draft = path.with_suffix(".tmp")
        try:
            with draft.open("wb") as file:
                np.savez(file, **content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise DiskError(
                f"cannot keep finished work in {self._folder}: {error.strerror}; free disk space, and run the same "
                "command again to resume (--no-resume keeps nothing)"
            ) from error


NOTHING_KEPT = Kept()


def kept_state(kept: Kept, num_rows: int) -> tuple[int, SamplerState] | None:
    """(number of rows of the solver's table that an earlier run has done, the sampler's state), or None."""
    for row in range(num_rows - 1, 0, -1):
        if kept.has(f"state.{row}") and (state := kept.load(f"state.{row}")) is not None:
            return row, SamplerState(*map(jnp.asarray, state))
    return None


def keep_state(kept: Kept, row: int, state: SamplerState | None) -> None:
    """Keeps the state after `row` rows, and removes the previous one."""
    if state is not None:
        kept.save(f"state.{row}", np.stack(state))
    kept.drop(f"state.{row - 1}")


@contextlib.contextmanager
def work_folder(
    output: Path, job: dict[str, Any], *, resume: bool, with_frames: bool = True
) -> Iterator[Kept]:
    """Creates or finds the folder of an output, and removes it when the output is complete.

    The folder is also removed if nothing was kept, or after an error that would occur again. The folders of runs
    that were interrupted or killed, or whose disk was full, remain.

    Args:
      output: the file to write.
      job: everything that the result depends on, in JSON types; work of another job is not used.
      resume: use existing work, and keep new work; otherwise start from scratch and keep nothing.
      with_frames: whether to keep finished frames besides latents.

    Raises:
      InputError: another run writes the same output, or the folder cannot be created.
    """
    folder = work_folder_path(output)
    with _locked(folder, output):
        _begin(folder, job, resume=resume)
        try:
            yield Kept(folder, with_frames=with_frames) if resume else NOTHING_KEPT
        except BaseException as error:
            comes_again = isinstance(error, StarError) and not isinstance(error, DiskError)
            if comes_again or not any(folder.glob("*.npz")):
                shutil.rmtree(folder, ignore_errors=True)
                raise
            _remove_drafts(folder)
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(
                    f"interrupted; nothing was left half-written, and the same command resumes from {folder}"
                ) from error
            raise
        shutil.rmtree(folder, ignore_errors=True)


def check_not_running(output: Path) -> None:
    """Checks, before any work, that no other run writes the same output.

    Raises:
      InputError: another run does.
    """
    lock = work_folder_path(output) / _LOCK
    with contextlib.suppress(FileNotFoundError, PermissionError), lock.open("r+") as file:
        _lock(file.fileno(), output)


def _begin(folder: Path, job: dict[str, Any], *, resume: bool) -> None:
    """Removes drafts, and the work of another job, from the folder."""
    _remove_drafts(folder)
    description, text = folder / _JOB, json.dumps(job, sort_keys=True, default=str)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if resume and description.read_text() == text:
            return
    for path in folder.glob("*.npz"):
        path.unlink()
    draft = description.with_suffix(".tmp")
    draft.write_text(text)
    draft.replace(description)


def _remove_drafts(folder: Path) -> None:
    for path in (*folder.glob("draft.*"), *folder.glob("*.tmp")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path, output: Path) -> Iterator[None]:
    """Holds the folder's lock, which the system releases when the process ends, however it ends."""
    while True:
        try:
            _make(folder)
            file = (folder / _LOCK).open("a+")
        except FileNotFoundError:  # a run that is done has just removed it
            continue
        except OSError as error:
            raise InputError(
                f"cannot write to {folder.parent}: {error.strerror}; choose another folder for {output}"
            ) from error
        with file:
            _lock(file.fileno(), output)
            if _is_file(file.fileno(), folder / _LOCK):
                yield
                return


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except FileNotFoundError as error:  # some file systems that are not writable raise this, too
        raise InputError(
            f"cannot create a folder in {folder.parent}; create {folder.parent} first, or choose another output"
        ) from error


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:  # a run that is done has just removed it
        return False


def _lock(descriptor: int, output: Path) -> None:
    if not try_lock(descriptor):
        raise InputError(
            f"{output} is being written by another run; wait for it, or choose another output name"
        )


def file_stamp(path: str | os.PathLike) -> list[Any]:
    """Fingerprint of a file, or of all files in a folder, to notice changes: names, sizes, modification times."""
    root = real_path(path)
    files = sorted(file for file in root.rglob("*") if file.is_file()) if root.is_dir() else [root]
    return [[str(file), (stat := file.stat()).st_size, stat.st_mtime_ns] for file in files]


def _from_png(data: np.ndarray) -> np.ndarray:
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError("not a picture")
    return image[..., None] if image.ndim == 2 else image
