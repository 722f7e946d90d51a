"""Kills training at random moments, goes on, and compares with a run that was not killed.

    python tests/train/kill_drill_of_training.py [KILLS] [SEED] [PROCESSES]

A toy of 12 steps saves a checkpoint after each, in one process of two simulated devices, or in two of one each. It
is killed (SIGKILL) KILLS times in all, each at a random moment of what a whole run takes once it has begun to
write; of two processes, one dies first and the other up to half a second later. After three kills a run is left to
finish. Weights, optimizer and metrics must then be bit-identical to those of a single process that was not killed.
"""

import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# Threads of a process, on which the order of a sum depends: as many in one as in two.
os.environ["NPROC"] = "2"

import jax
import numpy as np
from saved_state import saved_state
from toy_training import ToyObjective, toy_config

from star_jax.parallel.processes import initialize
from star_jax.train.loop import train
from star_jax.train.speed import MEASURED

STEPS = 12
KILLS_IN_A_ROW = 3


class Run:
    """A run of the toy in processes of its own, which fork from this one once everything is imported."""

    def __init__(self, workdir: Path, processes: int):
        self.workdir = workdir
        meet = f"localhost:{_free_port()}" if processes > 1 else None
        self.logs: dict[int, Path] = {}
        for i in range(processes):
            log = workdir.with_name(f"{workdir.name}.{i}.log")
            self.logs[_fork(lambda i=i, log=log: _train(workdir, meet, processes, i, log))] = log
        self.pids = list(self.logs)

    def begins(self) -> None:
        """Waits until it has begun to write."""
        while not (self.workdir / "checkpoints").exists():
            assert not self.is_over(), "it ended before it began"
            time.sleep(0.01)

    def is_over(self) -> bool:
        """Whether it has ended by itself; then it must have ended well."""
        for pid in list(self.pids):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                assert status == 0, f"a process ended with status {status}:\n{self.logs[pid].read_text()}"
                self.pids.remove(pid)
        return not self.pids

    def wait(self) -> None:
        """Waits for its end, which must be a good one."""
        while not self.is_over():
            time.sleep(0.01)

    def kill(self, order: list[int], pause: float) -> None:
        """Ends it as a power failure would: the processes one after the other."""
        for i, pid in enumerate(order):
            if i:
                time.sleep(pause)
            os.kill(pid, signal.SIGKILL)
        for pid in order:
            os.waitpid(pid, 0)


def main(kills: int, seed: int, processes: int) -> None:
    """Runs the drill, and prints what it found."""
    rng, begun = random.Random(seed), time.monotonic()
    root = Path(tempfile.mkdtemp())
    try:
        Run(root / "whole", 1).wait()
        run = Run(root / "measured", processes)
        run.begins()
        began = time.monotonic()
        run.wait()
        seconds = time.monotonic() - began
        _alone(lambda: _compare(root / "measured", root / "whole"))
        killed = saving = finished = 0
        while killed < kills:
            workdir = root / str(finished)
            for _ in range(min(KILLS_IN_A_ROW, kills - killed)):
                run = Run(workdir, processes)
                run.begins()
                time.sleep(rng.uniform(0, seconds))
                if run.is_over():
                    break
                run.kill(rng.sample(run.pids, len(run.pids)), rng.uniform(0, 0.5))
                killed += 1
                saving += bool(list((workdir / "checkpoints").glob("*tmp*")))
            Run(workdir, processes).wait()
            _alone(lambda workdir=workdir: _compare(workdir, root / "whole"))
            finished += 1
            shutil.rmtree(workdir)
            print(f"{killed} kills, {saving} in a save, {finished} runs bit-identical", flush=True)
        print(
            f"{processes} process(es): {killed} kills at random moments, {saving} in the middle of a save; "
            f"{finished} runs, bit-identical; {time.monotonic() - begun:.0f} s"
        )
    finally:
        shutil.rmtree(root)


def _train(workdir: Path, coordinator: str | None, processes: int, index: int, log: Path) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={2 // processes}"
    if coordinator:
        initialize(coordinator, str(processes), str(index))
    assert train(ToyObjective(), _config(), workdir, quiet=True).finished
    if coordinator:
        jax.distributed.shutdown()  # which waits for the other; at a usual exit, JAX does so by itself


def _config():
    return toy_config(num_steps=STEPS, batch_size=8, log_every_steps=1, keep_checkpoints=2)


def _compare(found: Path, expected: Path) -> None:
    states = [
        saved_state(path, STEPS, ToyObjective(), _config().optimizer, _config().train)
        for path in (found, expected)
    ]
    jax.tree.map(np.testing.assert_array_equal, *jax.device_get(states))
    assert _metrics(found) == _metrics(expected)


def _metrics(workdir: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in MEASURED} for line in lines]


def _fork(work) -> int:
    if (pid := os.fork()) == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


def _alone(work) -> None:
    """Runs something in a process of its own, so that this one never starts a device."""
    assert os.waitpid(_fork(work), 0)[1] == 0


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


if __name__ == "__main__":
    given = [*map(int, sys.argv[1:]), *(50, 0, 1)[len(sys.argv) - 1 :]]
    main(*given)
