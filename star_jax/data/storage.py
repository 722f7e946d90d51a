"""Reads files by local path or by any URL that fsspec opens (gs://, s3://, https://, memory://).

Paths are strings, as users and lists of clips write them. Output paths are `etils.epath` paths, because Orbax and
tensorflow-datasets write to those; epath supports buckets, but neither https:// nor memory://.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import fsspec

from star_jax.errors import InputError
from star_jax.files import is_url


def join(folder: str, name: str) -> str:
    """Joins a folder and a name; an absolute path or a URL as the name is returned unchanged."""
    if is_url(name) or name.startswith("/"):
        return name
    return f"{folder.rstrip('/')}/{name}"


def parent(path: str) -> str:
    """The folder of a file."""
    return path.rsplit("/", 1)[0] if "/" in path else "."


def exists(path: str) -> bool:
    filesystem, inner = fsspec.core.url_to_fs(path)
    return filesystem.exists(inner)


def is_folder(path: str) -> bool:
    filesystem, inner = fsspec.core.url_to_fs(path)
    return filesystem.isdir(inner)


def list_files(folder: str) -> list[str]:
    """Names of all files below a folder, relative to it, in sorted order; hidden files are left out.

    Raises:
      InputError: the folder does not exist.
    """
    if not is_folder(folder):
        raise InputError(f"no such folder: {folder}; check the path")
    filesystem, inner = fsspec.core.url_to_fs(folder)
    root = PurePosixPath(inner)
    names = (str(PurePosixPath(name).relative_to(root)) for name in filesystem.find(inner))
    return sorted(name for name in names if not PurePosixPath(name).name.startswith("."))


def read_bytes(path: str) -> bytes:
    with fsspec.open(path, "rb") as file:
        return file.read()


def read_text(path: str) -> str:
    return read_bytes(path).decode("utf-8")


@contextlib.contextmanager
def local_file(path: str) -> Iterator[Path]:
    """Gives a local path to a file; a remote file is copied for the duration of the context."""
    if not is_url(path):
        yield Path(path)
        return
    with temporary_file(read_bytes(path), suffix=PurePosixPath(path).suffix) as copy:
        yield copy


@contextlib.contextmanager
def temporary_file(data: bytes, suffix: str) -> Iterator[Path]:
    """Gives the path of a local file with the given content for the duration of the context."""
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(data)
        file.flush()
        yield Path(file.name)
