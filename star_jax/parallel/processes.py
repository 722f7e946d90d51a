"""How several processes form one run: where they connect, which process this is, and how they log.

The settings come from flags or the environment (which a Kubernetes manifest sets), from Slurm, or from a TPU pod,
in this order; without any of them there is one process. jax is imported inside functions, because the command line
needs the names of the flags before it needs jax.
"""

import logging
import os
import re
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from star_jax.errors import InputError

logger = logging.getLogger(__name__)

COORDINATOR = ("--coordinator", "JAX_COORDINATOR_ADDRESS")
NUM_PROCESSES = ("--num-processes", "JAX_NUM_PROCESSES")
PROCESS_ID = ("--process-id", "JAX_PROCESS_ID")
# Variables of Slurm that JAX needs; a shell within an allocation (salloc, sbatch without srun) has only some of
# them.
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@dataclass(frozen=True)
class Cluster:
    """Arguments of `jax.distributed.initialize`; JAX detects those that are None.

    Attributes:
      method: `address`, `slurm` or `tpu`.
      coordinator: HOST:PORT of process 0.
      num_processes: number of processes of the run.
      process_id: ID of this process, from 0.
      local_device_ids: GPUs of this process; [] means all.
    """

    method: str
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    local_device_ids: list[int] | None = None


def initialize(
    coordinator: str | None = None,
    num_processes: str | None = None,
    process_id: str | None = None,
    *,
    timeout: int = 300,
) -> None:
    """Joins the other processes of the run, if there are any. Call it before any use of devices.

    If they do not connect in time, the process exits with one line and exit code 1: JAX waits outside Python, and
    would abort with a core dump.

    Args:
      coordinator: HOST:PORT of process 0. This and the next two are texts from the command line; for each that is
        None, the environment decides.
      num_processes: number of processes of the run.
      process_id: ID of this process, from 0.
      timeout: seconds that processes wait for each other.

    Raises:
      InputError: a setting is missing or invalid, or the coordinator's port is in use.
    """
    import jax

    if timeout < 1:
        raise InputError(f"--coordinator-timeout is {timeout}; it must be at least 1 second")
    given = {COORDINATOR: coordinator, NUM_PROCESSES: num_processes, PROCESS_ID: process_id}
    platforms = jax.config.jax_platforms or ""  # type: ignore[attr-defined]  # jax declares no settings
    cluster = find_cluster(given, os.environ, platforms)
    if cluster is None:
        return
    if cluster.process_id == 0 and cluster.coordinator is not None:
        _check_port(cluster.coordinator)
    watchdog = threading.Timer(timeout, _give_up, (cluster, timeout))
    watchdog.daemon = True
    watchdog.start()
    jax.distributed.initialize(
        coordinator_address=cluster.coordinator,
        num_processes=cluster.num_processes,
        process_id=cluster.process_id,
        local_device_ids=cluster.local_device_ids,
        cluster_detection_method="deactivate" if cluster.method == "address" else None,
        initialization_timeout=timeout + 60,  # so that the watchdog fires first
    )
    watchdog.cancel()


def log_to(workdir: str | os.PathLike) -> None:
    """Sends this process's log to WORKDIR/logs/process_00000.log, and process 0's to stderr as well.

    If the work directory is a URL, where files cannot be appended to, every process logs to stderr instead.

    Raises:
      InputError: the file cannot be written.
    """
    import jax

    index = jax.process_index()
    stderr = logging.StreamHandler(sys.stderr)
    handlers: list[logging.Handler] = [stderr]
    if "://" in str(workdir):
        stderr.setFormatter(logging.Formatter(f"[{index}/{jax.process_count()}] {_LOG_FORMAT}"))
    else:
        path = Path(workdir) / "logs" / f"process_{index:05d}.log"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = logging.FileHandler(path)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}; choose another --workdir") from error
        file.setFormatter(logging.Formatter(_LOG_FORMAT))
        handlers = [file, stderr] if index == 0 else [file]
    logging.basicConfig(handlers=handlers, level=logging.WARNING, format=_LOG_FORMAT, force=True)
    logging.getLogger("star_jax").setLevel(logging.INFO)
    devices = jax.local_devices()
    logger.info(
        "process %d of %d on %s, %d x %s",
        index,
        jax.process_count(),
        socket.gethostname(),
        len(devices),
        devices[0].device_kind,
    )


def wait_for_all(name: str, seconds: int = 1800) -> None:
    """Waits until every process gets here, for example while one of them writes a file.

    Unlike `multihost_utils.sync_global_devices` it needs no devices, which on CPUs must first connect within 30 s.

    Args:
      name: name of the barrier, the same in all processes.
      seconds: seconds after which waiting processes give up.
    """
    from orbax.checkpoint import multihost

    multihost.get_barrier_sync_fn()(key=name, timeout_ms=1000 * seconds)


def find_cluster(
    given: Mapping[tuple[str, str], str | None], environ: Mapping[str, str], platforms: str
) -> Cluster | None:
    """Decides how this process connects to the others.

    Args:
      given: (flag, environment variable) -> the flag's value or None, for the three settings.
      environ: the environment.
      platforms: `jax.config.jax_platforms`, which JAX sets to "tpu,cpu" on a machine with TPU chips and libtpu.

    Returns:
      None if this process is alone.

    Raises:
      InputError: see `initialize`.
    """
    values = {names: value or environ.get(names[1]) for names, value in given.items()}
    values[PROCESS_ID] = values[PROCESS_ID] or environ.get("JOB_COMPLETION_INDEX")
    if values[NUM_PROCESSES] == "1":
        return None
    if values[COORDINATOR] or values[NUM_PROCESSES] or given[PROCESS_ID]:
        return _by_address(values)
    if all(name in environ for name in _SLURM):
        return _by_slurm(environ)
    if "tpu" in platforms.split(","):
        return Cluster("tpu")
    if "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ:
        raise InputError(
            f"this is pod {environ['JOB_COMPLETION_INDEX']} of an indexed job, but {COORDINATOR[1]} and "
            f"{NUM_PROCESSES[1]} are not set; see launch/kubernetes, or set {NUM_PROCESSES[1]}=1 to train alone"
        )
    return None


def _by_address(values: Mapping[tuple[str, str], str | None]) -> Cluster:
    texts = {names: value for names, value in values.items() if value}
    missing = [f"{flag} ({variable})" for flag, variable in values if (flag, variable) not in texts]
    if missing:
        raise InputError(
            f"several processes also need {' and '.join(missing)}; give all three settings, or none"
        )
    coordinator = texts[COORDINATOR]
    match = re.fullmatch(r"(\S+):(\d+)", coordinator)
    if not match or not 0 < int(match[2]) < 2**16:
        raise InputError(f"{COORDINATOR[0]} is {coordinator!r}; expected HOST:PORT, such as node-0:8476")
    count, index = (_natural(names, texts[names]) for names in (NUM_PROCESSES, PROCESS_ID))
    if index >= count:
        raise InputError(f"{PROCESS_ID[0]} is {index} of {count} processes; expected 0 to {count - 1}")
    return Cluster("address", coordinator, count, index)


def _natural(names: tuple[str, str], text: str) -> int:
    if not text.isdecimal():
        raise InputError(f"{names[0]} ({names[1]}) is {text!r}; expected a whole number of at least 0")
    return int(text)


def _by_slurm(environ: Mapping[str, str]) -> Cluster | None:
    tasks = environ["SLURM_NTASKS"]
    if tasks == "1":
        return None
    # JAX gives each Slurm task one GPU, which suits one task per GPU; one task per node should get all GPUs.
    one_per_node = environ.get("SLURM_STEP_NUM_NODES") == tasks
    return Cluster("slurm", local_device_ids=[] if one_per_node else None)


def _check_port(coordinator: str) -> None:
    """Checks that the port is free, because JAX crashes with a segmentation fault if it cannot listen.

    Raises:
      InputError: the port cannot be listened on.
    """
    port = int(coordinator.rpartition(":")[2])
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise InputError(
            f"process 0 cannot listen on port {port}: {error.strerror}; stop the program that uses it, or choose "
            f"another port in {COORDINATOR[0]}"
        ) from error


def _give_up(cluster: Cluster, seconds: int) -> None:
    where = f" at {cluster.coordinator}" if cluster.coordinator else ""
    who = "" if cluster.process_id is None else f"process {cluster.process_id}: "
    count = cluster.num_processes or "the"
    print(
        f"star-jax: {who}not all of {count} processes connected{where} within {seconds} s; check that each of them "
        "runs and that the address is process 0's and reachable from here, or raise --coordinator-timeout",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)
