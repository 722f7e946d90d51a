"""Training in processes of its own on simulated devices, and how two runs are compared."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from quick_programs import with_devices
from saved_state import saved_state

from star_jax.train.config import ExperimentConfig
from star_jax.train.objective import Objective
from star_jax.train.speed import MEASURED

FOLDER = Path(__file__).parent


def start(script: str, arguments: list, devices: int, **environment: str) -> subprocess.Popen:
    """A script of this folder."""
    return subprocess.Popen(
        [sys.executable, FOLDER / script, *map(str, arguments)],
        env={
            **with_devices(devices),
            "PYTHONPATH": os.pathsep.join([str(FOLDER), str(FOLDER.parent)]),
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(processes: list[subprocess.Popen]) -> list[str]:
    """Waits for processes that ended well; returns what they wrote."""
    try:
        outputs = [process.communicate(timeout=900)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(outputs)
    return outputs


def free_address() -> str:
    """HOST:PORT for two processes to meet at."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return f"localhost:{found.getsockname()[1]}"


def results(workdir: Path, objective: Objective, config: ExperimentConfig) -> tuple[dict, Any]:
    """Metrics by (step, name), and the first step's gradients as Adam's first moments show them."""
    state = saved_state(workdir, 1, objective, config.optimizer, config.train)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    values = {
        (line["step"], name): value for line in lines for name, value in line.items() if name not in MEASURED
    }
    return values, jax.tree.map(lambda mu: np.asarray(mu) / 0.1, state.opt_state[1][0].mu)


def assert_close(found: tuple[dict, Any], expected: tuple[dict, Any]) -> None:
    """Two `results` agree to 1e-5."""
    (metrics, gradients), (expected_metrics, expected_gradients) = found, expected
    assert metrics.keys() == expected_metrics.keys()
    for name, value in expected_metrics.items():
        assert metrics[name] == pytest.approx(value, rel=1e-5), name
    largest = max(abs(leaf).max() for leaf in jax.tree.leaves(expected_gradients))
    for one, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), strict=True):
        assert abs(one - other).max() < 1e-5 * largest
