"""Files of a command in buckets (gs://, s3://): inputs are copied to this machine first, and outputs at the end.

The copies are below TMPDIR, in a folder named by a hash of the URL, until the command has succeeded, so that the
same command can resume a run that was interrupted.
"""

import argparse
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from star_jax.errors import InputError, RunError, first_line
from star_jax.files import BUCKETS


def with_buckets(reads: Sequence[str] = (), writes: Sequence[str] = ()) -> Callable[[Callable], Callable]:
    """Decorates `run(args)` of a command.

    Args:
      reads: names of arguments for files or folders to read (or lists of them, in which NAME=PATH is allowed).
      writes: names of arguments for files or folders to write, or for patterns of their names.
    """

    def decorate(run):
        @wraps(run)
        def on_this_machine(args: argparse.Namespace) -> Any:
            if not any(map(_has_bucket, (getattr(args, name) for name in (*reads, *writes)))):
                return run(args)
            copies, changed = _Copies(), argparse.Namespace(**vars(args))
            for name in writes:
                setattr(changed, name, _each(getattr(args, name), copies.written))
            if copies.outputs and getattr(args, "skip_existing", False):
                raise InputError(
                    "--skip-existing does not work with outputs in a bucket; leave it out, or write to a disk"
                )
            for name in reads:
                setattr(changed, name, _each(getattr(args, name), copies.read))
            code = run(changed)
            for url in copies.upload():
                print(url)
            if not code:
                copies.remove()
            return code

        return on_this_machine

    return decorate


def _has_bucket(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return any(isinstance(one, str | os.PathLike) and _bucket_part(os.fspath(one)) for one in values)


def _bucket_part(text: str) -> str:
    """The bucket's URL in PATH or NAME=PATH; "" if there is none."""
    starts = [text.find(scheme) for scheme in BUCKETS if scheme in text]
    start = min(starts, default=-1)
    return text[start:] if start == 0 or (start > 0 and text[start - 1] == "=") else ""


def _each(value: Any, change: Any) -> Any:
    """The value with URLs of buckets changed to paths on this machine."""
    if isinstance(value, list):
        return [_each(one, change) for one in value]
    if not _has_bucket(value):
        return value
    text = os.fspath(value)
    url = _bucket_part(text)
    changed = text.removesuffix(url) + change(url)
    return changed if isinstance(value, str) else Path(changed)


class _Copies:
    """Copies on this machine of a command's files in buckets."""

    def __init__(self) -> None:
        self._root = Path(tempfile.gettempdir()) / f"star_jax-{os.getuid()}" / "files"
        self._folders: list[Path] = []
        self.outputs: list[tuple[Path, str]] = []  # folders, and the URLs that their contents go to

    def read(self, url: str) -> str:
        """Copies a file or folder to this machine; returns the path of the copy.

        Raises:
          InputError: the URL does not exist, or cannot be read.
        """
        import fsspec

        try:
            filesystem, path = fsspec.core.url_to_fs(url.rstrip("/"))
            files = filesystem.find(path, detail=True)
            if not files:
                raise InputError(f"{url} does not exist; check the URL")
            stamps = [
                [name, info.get("size"), info.get("etag") or info.get("ETag")] for name, info in files.items()
            ]
            folder = self._folder(json.dumps([url, sorted(map(str, stamps))]))
            copy = folder / path.rsplit("/", 1)[-1]
            for name, info in files.items():
                place = folder / os.path.relpath(name, os.path.dirname(path))
                if not place.exists() or place.stat().st_size != info.get("size"):
                    place.parent.mkdir(parents=True, exist_ok=True)
                    filesystem.get_file(name, str(place))
        except (OSError, ImportError, ValueError) as error:
            raise InputError(
                f"cannot read {url} ({first_line(error)}); check the URL and your permissions"
            ) from error
        return str(copy)

    def written(self, url: str) -> str:
        """Path on this machine for an output in a bucket; {name} and %05d in a pattern are kept.

        Raises:
          InputError: the URL is that of a bucket, without a name in it.
        """
        scheme, _, rest = url.partition("://")
        bucket, *parts = rest.split("/")
        fixed = next((i for i, part in enumerate(parts[:-1]) if "{" in part or "%" in part), len(parts) - 1)
        if not parts or not bucket:
            raise InputError(f"{url} is a bucket, not a file or folder in it; add a name")
        if not parts[-1]:  # a folder
            fixed = min(fixed, len(parts) - 2)
        folder = self._folder(url)
        self.outputs.append((folder, "/".join([f"{scheme}://{bucket}", *parts[: max(fixed, 0)]])))
        place = folder.joinpath(*parts[max(fixed, 0) :])
        place.parent.mkdir(parents=True, exist_ok=True)
        if not parts[-1]:
            place.mkdir(exist_ok=True)
        return str(place)

    def upload(self) -> list[str]:
        """Copies the outputs to their buckets; returns their URLs.

        Raises:
          RunError: a bucket cannot be written to. The files on this machine stay.
        """
        import fsspec

        done = []
        for folder, url in self.outputs:
            files = [file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file()]
            try:
                filesystem, target = fsspec.core.url_to_fs(url)
                for name in files:
                    if not any(part.startswith(".") for part in name.parts):  # not the files of a killed run
                        filesystem.put_file(str(folder / name), f"{target}/{name.as_posix()}")
                        done.append(f"{url}/{name.as_posix()}")
            except (OSError, ImportError, ValueError) as error:
                raise RunError(
                    f"cannot write to {url} ({first_line(error)}); copy the results from {folder}"
                ) from error
        return done

    def remove(self) -> None:
        """Removes the copies of a command that has succeeded."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _folder(self, identity: str) -> Path:
        folder = self._root / hashlib.sha256(identity.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        self._folders.append(folder)
        return folder
