"""Checkpoint directories in buckets: they are copied to this machine to be read, and built here and uploaded."""

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from etils import epath

from star_jax.errors import InputError, RunError, first_line
from star_jax.files import appearing, is_url

logger = logging.getLogger(__name__)

# Errors of fsspec and the cloud libraries for a missing bucket, file or permission.
_BUCKET_ERRORS = (OSError, ImportError, ValueError)


def local_copy(url: str, last_file: str) -> Path:
    """Copies a checkpoint directory from a bucket (gs://, s3://, or any URL that fsspec opens) once per content.

    The copy lies in the system's folder for temporary files. Its name is a hash of the names, sizes and tags of the
    remote files, so that a changed checkpoint is copied again and an unchanged one is reused.

    Args:
      url: URL of the directory.
      last_file: file that marks the directory as complete; see `uploaded`.

    Raises:
      InputError: the directory does not exist, is incomplete, or cannot be read.
      RunError: the copy cannot be written.
    """
    filesystem, folder, files = _files(url)
    if not files:
        raise InputError(
            f"checkpoint directory {url} does not exist; make one with star-jax convert SRC... DST"
        )
    if not any(os.path.relpath(name, folder) == last_file for name in files):
        raise InputError(
            f"{url} is not a checkpoint directory, or not a complete one (it has no {last_file}); make one with "
            "star-jax convert SRC... DST"
        )
    stamp = {name: [info.get("size"), info.get("etag") or info.get("ETag")] for name, info in files.items()}
    name = hashlib.sha256(json.dumps([url, stamp], sort_keys=True).encode()).hexdigest()[:16]
    target = Path(tempfile.gettempdir()) / f"star_jax-{os.getuid()}" / name
    if target.is_dir():
        return target
    logger.info("copying %s to %s", url, target)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with appearing(target) as partial:
            for remote in files:
                place = partial / os.path.relpath(remote, folder)
                place.parent.mkdir(parents=True, exist_ok=True)
                filesystem.get_file(remote, str(place))
    except OSError as error:
        raise RunError(
            f"cannot copy {url} to {target.parent}: {first_line(error)}; set TMPDIR to a folder with space"
        ) from error
    return target


@contextlib.contextmanager
def uploaded(url: str, last_file: str) -> Iterator[Path]:
    """Yields an empty local folder (in TMPDIR), whose files then replace those at `url`.

    A bucket cannot rename folders. So `last_file`, which marks a directory as complete, is the first of the old
    files to be removed and the last of the new ones to be uploaded.

    Raises:
      RunError: the bucket cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="star_jax-") as folder:
        local = Path(folder)
        yield local
        try:
            filesystem, target, old = _files(url)
            for name in sorted(old, key=lambda name: os.path.relpath(name, target) != last_file):
                filesystem.rm_file(name)
            files = [str(file.relative_to(local)) for file in sorted(local.rglob("*")) if file.is_file()]
            for name in sorted(files, key=lambda name: name == last_file):
                filesystem.put_file(str(local / name), f"{target}/{name}")
        except _BUCKET_ERRORS as error:
            raise RunError(
                f"cannot write {url}: {first_line(error)}; check the bucket and your permission to write to it"
            ) from error


def move_folder(source: epath.Path, target: epath.Path) -> None:
    """Moves a folder to `target` and replaces what is there; in a bucket, which has no folders, it moves files."""
    if target.exists():
        target.rmtree()
    if not is_url(source):
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        return
    filesystem, folder, files = _files(os.fspath(source))
    _, to = fsspec.core.url_to_fs(os.fspath(target))
    for name in files:
        filesystem.mv(name, f"{to}/{os.path.relpath(name, folder)}")
    filesystem.invalidate_cache()  # the cache may still list the folder


def names_in(url: str) -> list[str]:
    """Names of all files below a folder of a bucket, relative to it.

    Raises:
      InputError: the bucket cannot be read.
    """
    _, folder, files = _files(url)
    return [os.path.relpath(name, folder) for name in files]


def _files(url: str) -> tuple[Any, str, dict[str, dict[str, Any]]]:
    """The file system, the folder in it, and the details of its files."""
    try:
        filesystem, folder = fsspec.core.url_to_fs(url.rstrip("/"))
        filesystem.invalidate_cache()
        return filesystem, folder, filesystem.find(folder, detail=True)
    except _BUCKET_ERRORS as error:
        raise InputError(
            f"checkpoint directory {url} cannot be read ({first_line(error)}); check the bucket and your "
            "permission to read it"
        ) from error
