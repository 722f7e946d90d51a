"""Pictures and JSON reports, which appear under their names only when they are complete."""

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from star_jax.errors import InputError, RunError


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


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Writes anything that JSON holds, indented.

    Raises:
      RunError: the file cannot be written.
    """
    _write(Path(path), (json.dumps(content, indent=2) + "\n").encode())


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes a picture, uint8 [H, W, 3] RGB.

    Raises:
      RunError: the file cannot be written.
    """
    _write(Path(path), cv2.imencode(".png", image[..., ::-1])[1].tobytes())


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RunError(
            f"cannot write {path}: {error.strerror}; check the folder and the free space"
        ) from error
