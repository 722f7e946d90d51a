"""The work directory of a run, and the configuration of the run.

WORKDIR/.lock             held by process 0 while it trains
WORKDIR/config.json       the configuration of the last start
WORKDIR/checkpoints/      see `checkpoints`
WORKDIR/metrics.jsonl     see `metrics`; tensorboard/ beside it
WORKDIR/validation/       pictures and videos
WORKDIR/profile/          traces
"""

import contextlib
import dataclasses
import json
import os
import platform
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from star_jax.errors import InputError
from star_jax.files import BUCKETS, appearing, is_url, try_lock

CONFIG_FILE = "config.json"
CHECKPOINTS = "checkpoints"
VALIDATION = "validation"
_LOCK = ".lock"
_held: set[str] = set()  # directories that this process has locked, and may enter again

# Keys that may change when a run is resumed. They determine how long (at a constant learning rate) and how fast the
# run computes, where files are, and what is reported; every other key changes the result.
FREE_KEYS = frozenset(
    {
        "train.num_steps",
        "train.remat",
        "train.log_every_steps",
        "train.checkpoint_every_steps",
        "train.keep_checkpoints",
        "train.keep_every_steps",
        "train.validate_every_steps",
        "train.validation_source",
        "train.validation_batches",
        "train.largest_grad_norm",  # a run that stopped at a bad step must be able to continue
        "train.skip_bad_steps",
        "train.stall_seconds",
        "train.wandb",
        "train.curves",
        "train.profile_start_step",
        "train.profile_steps",
        "data.source",  # the loader compares the contents
        "data.num_workers",
        "data.read_threads",
        "data.worker_buffer",
        "data.max_bad_share",
        "model.checkpoint",
        "model.attention",
        "distill.teacher",
        "mesh.data",
        "mesh.fsdp",
        "mesh.context",
        "mesh.dcn_data",
    }
)


def open_workdir(
    workdir: str | os.PathLike, config: Any, *, allow_changed_config: bool = False
) -> epath.Path:
    """Creates the directory, or checks that it has the same configuration if it has a checkpoint.

    Args:
      workdir: a path, gs://bucket/run or s3://bucket/run.
      config: dataclass of groups.
      allow_changed_config: accept a directory with another configuration, and record the new one.

    Raises:
      InputError: the directory was begun with another configuration, or cannot be created.
    """
    root = absolute(workdir)
    ours = _flat(dataclasses.asdict(config))
    path = root / CONFIG_FILE
    if path.exists() and has_checkpoint(root) and not allow_changed_config:
        theirs = _flat(_read(path))
        free = FREE_KEYS
        decays = ours.get("optimizer.schedule", "constant") != "constant"
        if decays or "schedule" in ours.get("optimizer.groups", ""):
            free -= {"train.num_steps"}  # the learning rate of every step depends on it
        for key in sorted(ours.keys() | theirs.keys()):
            # A key that only one of the two versions knows has its default value.
            if key in ours and key in theirs and key not in free and ours[key] != theirs[key]:
                raise InputError(
                    f"{workdir} was begun with {key}={theirs[key]!r}, this configuration has {ours[key]!r}; choose "
                    "another --workdir, or pass --allow-changed-config to continue with the new value"
                )
    if jax.process_index() == 0:
        try:
            root.mkdir(parents=True, exist_ok=True)
            with appearing(path) as partial:
                partial.write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
        except OSError as error:
            raise InputError(f"cannot write to --workdir {workdir}: {error.strerror or error}") from error
    return root


@contextlib.contextmanager
def held_workdir(workdir: str | os.PathLike) -> Iterator[None]:
    """Keeps other runs out of a work directory; a run that was killed leaves no lock behind.

    Process 0 holds the lock for all processes of a run. Buckets have no locks.

    Raises:
      InputError: another run uses the directory, or it cannot be written to.
    """
    root = absolute(workdir)
    name = os.fspath(root)
    if is_url(name) and not name.startswith(BUCKETS):
        raise InputError(
            f"--workdir {workdir} cannot hold checkpoints; give a path, gs:// or s3://, or mount the bucket"
        )
    if is_url(name) or jax.process_index() > 0 or name in _held:
        yield
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(f"cannot write to --workdir {workdir}: {error.strerror or error}") from error
    with open(descriptor, "r+") as file:
        if not try_lock(file.fileno()):
            raise InputError(
                f"{workdir} is in use by another run ({file.read().strip() or 'of an unknown process'}); wait for "
                "it, end it, or choose another --workdir"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        _held.add(name)
        try:
            yield
        finally:
            _held.discard(name)


def has_checkpoint(root: epath.Path) -> bool:
    """Whether the run has a checkpoint to resume from; until then its configuration may be changed."""
    folder = root / CHECKPOINTS
    return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())


def absolute(workdir: str | os.PathLike) -> epath.Path:
    """An absolute path, which Orbax needs; URLs stay unchanged."""
    return epath.Path(workdir if is_url(workdir) else os.path.abspath(workdir))


def read_workdir_config(workdir: str | os.PathLike) -> dict[str, Any]:
    """Reads the configuration of a run's last start, as groups of keys.

    Raises:
      InputError: `workdir` is not a work directory, or the file is damaged.
    """
    path = epath.Path(workdir) / CONFIG_FILE
    if not path.exists():
        raise InputError(
            f"{workdir} is not a work directory of star-jax train (it has no {CONFIG_FILE}); check the path"
        )
    return _read(path)


def _read(path: epath.Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); restore it, or choose another --workdir") from error


def _flat(groups: dict[str, Any]) -> dict[str, Any]:
    values = {f"{group}.{key}": value for group, keys in groups.items() for key, value in keys.items()}
    return json.loads(json.dumps(values))  # tuples become lists, as in the file
