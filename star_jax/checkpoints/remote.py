"""Checkpoint directories in buckets, copied to this machine before they are read."""

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path

import fsspec

from star_jax.errors import InputError, RunError, first_line
from star_jax.files import appearing

logger = logging.getLogger(__name__)


def local_copy(url: str) -> Path:
    """Copies a checkpoint directory from a bucket (gs://, s3://: whatever fsspec opens), once for each content.

    The copy lies in the system's folder for temporary files. It is named by the names, sizes and tags of the remote
    files, so that a changed checkpoint is copied anew and an unchanged one is found.

    Raises:
      InputError: nothing is there, or it cannot be read.
      RunError: the disk is full.
    """
    try:
        filesystem, folder = fsspec.core.url_to_fs(url.rstrip("/"))
        files = filesystem.find(folder, detail=True)
    except (OSError, ImportError, ValueError) as error:
        raise InputError(f"checkpoint directory {url} cannot be read ({first_line(error)})") from error
    if not files:
        raise InputError(
            f"checkpoint directory {url} does not exist; make one with star-jax convert SRC... DST"
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
        raise RunError(f"cannot copy {url} to {target.parent}: {first_line(error)}; set TMPDIR") from error
    return target
