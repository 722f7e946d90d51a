"""Keeps the finished work of a long run beside its output, so that a run that was killed goes on where it was.

The folder `.OUT.star-jax` holds arrays by name (latents, frames), each in a file that appears when it is complete
and carries its own checksums: a file that a power failure cut off is ignored. Work from other inputs,
settings, weights or versions is removed. The folder is locked while a run works in it, and removed when the output
is complete.
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
        """A view that has its own names."""
        return Kept(self._folder, f"{self._prefix}{name}.", with_frames=self._with_frames)

    def has(self, name: str) -> bool:
        """Whether there is an array of that name; `load` finds out if it is whole."""
        return self._folder is not None and self._path(name).exists()

    def load(self, name: str) -> np.ndarray | None:
        """The array of that name, if it was kept and is whole."""
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
        """Keeps frames, uint8 or uint16 [f, H, W, C], as lossless pictures: about half the size.

        Raises:
          DiskError: the disk is full.
        """
        if self._with_frames:
            self._save(name, {str(i): cv2.imencode(".png", frame, _PNG)[1] for i, frame in enumerate(frames)})

    def drop(self, name: str) -> None:
        """Forgets an array that is not needed any more, if it was there."""
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
                f"cannot keep finished work in {self._folder}: {error.strerror}; make room on the disk, and the "
                "same command goes on from here (--no-resume keeps nothing)"
            ) from error


NOTHING_KEPT = Kept()


def kept_state(kept: Kept, num_rows: int) -> tuple[int, SamplerState] | None:
    """The rows of the solver's table that an earlier run has done, and its state."""
    for row in range(num_rows - 1, 0, -1):
        if kept.has(f"state.{row}") and (state := kept.load(f"state.{row}")) is not None:
            return row, SamplerState(*map(jnp.asarray, state))
    return None


def keep_state(kept: Kept, row: int, state: SamplerState | None) -> None:
    """Keeps the state after a number of rows, in place of the one before."""
    if state is not None:
        kept.save(f"state.{row}", np.stack(state))
    kept.drop(f"state.{row - 1}")


@contextlib.contextmanager
def work_folder(
    output: Path, job: dict[str, Any], *, resume: bool, with_frames: bool = True
) -> Iterator[Kept]:
    """Makes, or finds, the folder of an output, and removes it when the output is there.

    It also goes when nothing was kept, or when an error came that would come again. What remains are the folders of
    runs that were interrupted, killed or short of disk.

    Args:
      output: the file that is to be written.
      job: everything that the result depends on, in JSON types; work of another job is not used.
      resume: use the work that is there, and keep new work; otherwise begin anew and keep nothing.
      with_frames: keep finished frames, too, not the latents alone.

    Raises:
      InputError: another run writes the same output, or the folder cannot be made.
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
                    f"interrupted; nothing was left half-written, and the same command goes on from {folder}"
                ) from error
            raise
        shutil.rmtree(folder, ignore_errors=True)


def check_not_running(output: Path) -> None:
    """To be asked before any work.

    Raises:
      InputError: another run writes the same output.
    """
    lock = work_folder_path(output) / _LOCK
    with contextlib.suppress(FileNotFoundError, PermissionError), lock.open("r+") as file:
        _lock(file.fileno(), output)


def _begin(folder: Path, job: dict[str, Any], *, resume: bool) -> None:
    """Removes files that are of no use from the folder."""
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
        except FileNotFoundError:  # removed in between, by a run that is done
            continue
        except OSError as error:
            raise InputError(
                f"cannot write in {folder.parent}: {error.strerror}; choose another folder for {output}"
            ) from error
        with file:
            _lock(file.fileno(), output)
            if _is_file(file.fileno(), folder / _LOCK):
                yield
                return


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except FileNotFoundError as error:  # also what some file systems say in which nothing can be made
        raise InputError(f"no folder can be made in {folder.parent}; create it, or choose another") from error


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:  # removed in between, by a run that is done
        return False


def _lock(descriptor: int, output: Path) -> None:
    if not try_lock(descriptor):
        raise InputError(
            f"{output} is being written by another run; wait for it, or choose another output name"
        )


def file_stamp(path: str | os.PathLike) -> list[Any]:
    """Fingerprint of a file or a folder's files, to notice changes: names, sizes and times of change."""
    root = real_path(path)
    files = sorted(file for file in root.rglob("*") if file.is_file()) if root.is_dir() else [root]
    return [[str(file), (stat := file.stat()).st_size, stat.st_mtime_ns] for file in files]


def _from_png(data: np.ndarray) -> np.ndarray:
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError("not a picture")
    return image[..., None] if image.ndim == 2 else image
