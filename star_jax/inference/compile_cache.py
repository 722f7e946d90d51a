"""A cache of compiled programs on disk, so that the next run with the same shapes does not compile."""

import atexit
import contextlib
import logging
import os
import shutil
from pathlib import Path

import jax

from star_jax.errors import InputError
from star_jax.files import process_name, remove_abandoned

logger = logging.getLogger(__name__)

DEFAULT_CACHE = "~/.cache/star_jax"
_SHORTEST_SECONDS = 0.5  # shortest compilation that is worth keeping
_SESSION = "session"
AUTOTUNING = "autotuning"
_NVIDIA = Path("/proc/driver/nvidia")
_AUTOTUNING_FLAG = "--xla_gpu_per_fusion_autotune_cache_dir"


def use_compile_cache(directory: str | os.PathLike | None) -> None:
    """Uses the compiled programs in `directory`, and adds this process's when it ends.

    JAX writes the files of a cache in place and only once: a process that is killed while writing would leave half
    a program, which every later run would fail to read. So each process has a folder of links to the existing
    programs, and moves its new programs into the cache when it ends. The next process removes the folder of a
    process that was killed.

    Args:
      directory: created if it does not exist; None is DEFAULT_CACHE, which gives only a warning if it cannot be
        used; '' disables the cache.

    Raises:
      InputError: the given folder cannot be created or written to.
    """
    if directory is None:
        try:
            return use_compile_cache(DEFAULT_CACHE)
        except InputError as error:
            return logger.warning("%s", error)
    if not directory:
        return None
    root = Path(directory).expanduser().absolute()
    session = root / process_name(_SESSION)
    try:
        root.mkdir(parents=True, exist_ok=True)
        remove_abandoned(root, _SESSION)
        session.mkdir()
        for program in root.glob("*-cache"):
            (session / program.name).symlink_to(program)
    except OSError as error:
        raise InputError(
            f"cannot keep compiled programs in {root}: {error.strerror}; choose another --compile-cache, or ''"
        ) from error
    atexit.register(_keep_new_programs, session, root, os.getpid())
    jax.config.update("jax_compilation_cache_dir", os.fspath(session))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _SHORTEST_SECONDS)
    # JAX would put XLA's own caches into this process's folder, and their path into every program's key.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    _keep_autotuning(root / AUTOTUNING)


def _keep_autotuning(directory: Path) -> None:
    """Has XLA remember which kernel was fastest for each fusion: new programs on a GPU then compile faster.

    XLA reads its flags once, before the first program, and does not accept a path with a space. It writes each file
    atomically.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _NVIDIA.exists() and _AUTOTUNING_FLAG not in flags and not any(map(str.isspace, os.fspath(directory))):
        directory.mkdir(exist_ok=True)
        os.environ["XLA_FLAGS"] = f"{flags} {_AUTOTUNING_FLAG}={directory}".strip()


def _keep_new_programs(session: Path, root: Path, pid: int) -> None:
    if os.getpid() != pid:  # a fork of the process that owns the folder
        return
    with contextlib.suppress(OSError):  # a full or vanished disk costs the cache, not the result
        for program in session.glob("*-cache"):
            if not program.is_symlink():
                program.replace(root / program.name)
    shutil.rmtree(session, ignore_errors=True)
