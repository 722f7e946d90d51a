"""Environment of a measurement, part of every report: hardware, versions, command and memory."""

import importlib.metadata
import os
import platform
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

_PACKAGES = ("star_jax", "jax", "jaxlib", "flax", "grain", "numpy", "opencv-python-headless", "av")


def describe() -> dict[str, Any]:
    """`hardware`, `versions`, `commit` and `command` of this process; imports no accelerator library."""
    return {
        "hardware": {"cpu": _cpu_name(), "cores": len(_cores()), "platform": platform.platform()},
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
        "command": shlex.join(["star-jax", *sys.argv[1:]]),
    }


def peak_host_bytes() -> int:
    """Largest resident memory of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _commit() -> str | None:
    """The checkout's commit, with `-dirty` if files differ from it; None if the package is not in a checkout."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    described = subprocess.run(
        ["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or None


def _cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
