"""Who the processes of a run are; two real ones, four simulated devices each, meet, sum and stop together."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from quick_programs import with_devices

from star_jax.errors import InputError
from star_jax.parallel import peers
from star_jax.parallel.processes import COORDINATOR, NUM_PROCESSES, PROCESS_ID, Cluster, find_cluster

PROGRAM = Path(__file__).parent / "cluster_program.py"
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "3",
    "SLURM_STEP_NUM_NODES": "2",
}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "2"}


def find(*given, environ=None, platforms=""):
    settings = dict(zip((COORDINATOR, NUM_PROCESSES, PROCESS_ID), given or (None,) * 3, strict=True))
    return find_cluster(settings, environ or {}, platforms)


def test_one_process_by_default():
    assert find() is None
    assert find(platforms="cuda,cpu") is None
    assert (
        find(environ={"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "16"}) is None
    )  # salloc's shell, no task of srun
    assert find(environ=SLURM | {"SLURM_NTASKS": "1"}) is None
    assert find(None, "1", None, environ=POD, platforms="tpu,cpu") is None
    assert find(environ={"JOB_COMPLETION_INDEX": "0"}) is None


def test_flags_come_before_the_environment():
    environ = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2"}
    assert find(environ=environ) == Cluster("address", "a:1", 4, 2)
    assert find("b:2", None, "0", environ=environ | SLURM) == Cluster("address", "b:2", 4, 0)


def test_kubernetes_pods_count_themselves():
    environ = POD | {"JAX_COORDINATOR_ADDRESS": "star-0.star:8476", "JAX_NUM_PROCESSES": "4"}
    assert find(environ=environ) == Cluster("address", "star-0.star:8476", 4, 2)


def test_slurm_and_tpu_are_left_to_jax():
    assert find(environ=SLURM) == Cluster("slurm")
    one_per_node = SLURM | {"SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
    assert find(environ=one_per_node) == Cluster("slurm", local_device_ids=[])
    assert find(platforms="tpu,cpu") == Cluster("tpu")
    assert find(environ=POD, platforms="tpu,cpu") == Cluster("tpu")


@pytest.mark.parametrize(
    ("given", "environ", "message"),
    [
        (("a:1", None, None), {}, "need --num-processes (JAX_NUM_PROCESSES) and --process-id"),
        ((None, "2", "0"), {}, "need --coordinator (JAX_COORDINATOR_ADDRESS)"),
        ((None, None, "1"), {}, "need --coordinator"),
        (("a:1", None, "0"), SLURM, "need --num-processes"),
        (("a", "2", "0"), {}, "--coordinator is 'a'; expected HOST:PORT"),
        (("a:99999", "2", "0"), {}, "expected HOST:PORT"),
        (("a:1", "2", "2"), {}, "--process-id is 2 of 2 processes; expected 0 to 1"),
        (("a:1", "two", "0"), {}, "--num-processes (JAX_NUM_PROCESSES) is 'two'; expected a whole number"),
        ((None, None, None), POD, "this is pod 2 of an indexed job, but JAX_COORDINATOR_ADDRESS"),
    ],
)
def test_names_what_is_missing_or_wrong(given, environ, message):
    with pytest.raises(InputError) as error:
        find(*given, environ=environ)
    assert message in str(error.value)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def start(*flags, devices=4, **environ) -> subprocess.Popen:
    environ = {**with_devices(devices), **environ}
    command = [sys.executable, str(PROGRAM), *map(str, flags)]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(*processes) -> list[tuple[str, str]]:
    """(stdout, stderr) of each, none of which failed or hung."""
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return outputs


def reports_of(outputs) -> list[dict]:
    """The line of JSON that each printed, among gloo's."""
    return [json.loads(next(line for line in out.splitlines() if line[:1] == "{")) for out, _ in outputs]


def test_two_processes_sum_log_and_stop_together(tmp_path):
    common = ["--coordinator", f"localhost:{free_port()}", "--num-processes", 2, "--workdir", tmp_path]
    outputs = finish(*(start(*common, "--process-id", i, "--wait-for-sigterm") for i in range(2)))
    reports = reports_of(outputs)
    assert [report["process"] for report in reports] == [[0, 2], [1, 2]]
    assert all(report["devices"] == [4, 8] and report["sum"] == sum(range(8)) for report in reports)
    assert min(report["passed"] for report in reports) >= max(report["arrived"] for report in reports)
    assert all(report["gathered"] == ["said by 0", ""] for report in reports)
    assert reports[0]["stopped_at"] == reports[1]["stopped_at"]
    for index, (_, stderr) in enumerate(outputs):
        log = (tmp_path / "logs" / f"process_{index:05d}.log").read_text()
        assert f"process {index} of 2" in log and "4 x cpu" in log
        assert ("star_jax.parallel.processes: process" in stderr) == (index == 0)


def test_a_process_that_stops_for_bad_input_ends_the_others_with_its_line(tmp_path):
    common = ["--coordinator", f"localhost:{free_port()}", "--num-processes", 2, "--workdir", tmp_path]
    processes = [start(*common, "--process-id", i, "--refuse", 1, devices=1) for i in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert "star-jax: process 0: process 1 stopped: no such folder: clips; check the path" in errors[0]
    assert "star-jax train: no such folder: clips" in errors[1]
    assert not any(word in error for error in errors for word in ("Traceback", "Check failure", "Gloo"))


class Store:
    """The key-value store of a run of two processes, the other of which has stopped saying that it lives."""

    def __init__(self):
        self.values = {"star_jax/alive/1": "17"}

    def key_value_set(self, key, value, allow_overwrite=False):
        self.values[key] = value

    def key_value_dir_get(self, folder):
        return [(key, value) for key, value in self.values.items() if key.startswith(folder)]


def test_a_process_that_is_not_heard_of_is_lost(monkeypatch, capsys):
    codes = []
    for name, value in {"LOST_AFTER_SECONDS": 0.2, "_BETWEEN_LOOKS": 0.02, "_HEARD_WITHIN": 0.1}.items():
        monkeypatch.setattr(peers, name, value)
    monkeypatch.setattr(peers.os, "_exit", codes.append)
    peers._Listener(Store()).run()
    assert codes == [1]
    assert (
        "process 0: process 1 has not been heard from for 0 s; check its machine" in capsys.readouterr().err
    )


def test_an_operation_that_fails_because_another_process_is_gone_ends_in_a_line(monkeypatch, capsys):
    def leave(code):
        raise SystemExit(code)

    monkeypatch.setattr(peers, "_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(peers, "_client", Store)
    monkeypatch.setattr(peers.jax, "process_count", lambda: 2)
    monkeypatch.setattr(peers.os, "_exit", leave)
    with pytest.raises(SystemExit, match="1"), peers.ending_together():
        raise ValueError("Gloo AllGather failed: Read error: Connection reset by peer")
    assert "process 0: another process of this run is gone (Gloo AllGather failed" in capsys.readouterr().err


def test_two_tasks_of_slurm_meet(tmp_path):
    job = SLURM | {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    tasks = [{"SLURM_PROCID": str(i), "SLURM_LOCALID": "0"} for i in range(2)]
    # Two nodes of one task each: a task has all GPUs of its node, where JAX alone would give it the first one.
    outputs = finish(*(start("--workdir", tmp_path, devices=1, **(job | task)) for task in tasks))
    reports = reports_of(outputs)
    assert [report["process"] for report in reports] == [[0, 2], [1, 2]]
    assert [report["visible_gpus"] for report in reports] == ["all", "all"]


def test_logs_of_a_remote_work_directory_go_to_stderr():
    [(_, stderr)] = finish(start("--workdir", "memory://run", devices=1))
    assert "[0/1] " in stderr and "process 0 of 1" in stderr


@pytest.mark.parametrize("process", [0, 1])
def test_gives_up_in_one_line_when_the_others_do_not_come(tmp_path, process):
    flags = ["--coordinator", f"localhost:{free_port()}", "--num-processes", 2, "--process-id", process]
    alone = start(*flags, "--workdir", tmp_path, "--coordinator-timeout", 2)
    _, stderr = alone.communicate(timeout=60)
    assert alone.returncode == 1
    assert f"star-jax: process {process}: not all of 2 processes connected at localhost:" in stderr
    assert "Check failure" not in stderr and "Traceback" not in stderr


def test_a_port_in_use_is_named(tmp_path):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        flags = ["--coordinator", f"localhost:{port}", "--num-processes", 2, "--process-id", 0]
        process = start(*flags, "--workdir", tmp_path)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"2: process 0 cannot listen on port {port}" in stderr
