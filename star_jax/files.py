"""Files that appear under their names only when they are complete: drafts, pictures, JSON reports."""

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from star_jax.errors import InputError, RunError

_LONGEST_NAME = 255  # bytes, of most file systems


def check_report_path(path: str | os.PathLike, suffix: str) -> None:
    """To be asked before the work whose report it is.

    Raises:
      InputError: another suffix, a folder, or no folder to write in.
    """
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise InputError(f"cannot write {path}: give a name that ends in {suffix}")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"cannot write {path}: give a file in a folder that exists and can be written")


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


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Writes anything that JSON holds, indented.

    Raises:
      RunError: the file cannot be written.
    """
    write_bytes(Path(path), (json.dumps(content, indent=2) + "\n").encode())


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes a picture, uint8 [H, W, 3] RGB.

    Raises:
      RunError: the file cannot be written.
    """
    write_bytes(Path(path), cv2.imencode(".png", image[..., ::-1])[1].tobytes())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a whole file.

    Raises:
      RunError: it cannot be written.
    """
    draft = draft_path(path)
    try:
        draft.write_bytes(data)
        draft.replace(real_path(path))
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise RunError(
            f"cannot write {path}: {error.strerror}; check the folder and the free space"
        ) from error
