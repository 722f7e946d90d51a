"""Trains `tiny` in one process, and in two processes that are killed three times: the same curve, bit for bit.

    python tests/train/killed_curve_of_training.py CLIPS OTHERS FOLDER [STEPS]

CLIPS are videos to train on, OTHERS to validate on; FOLDER gets both runs and curve.png. One process has two
simulated devices and the two have one each, so that the same sums are added in the same order. The two are killed
(SIGKILL) at three random moments, and the same command goes on.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from star_jax.train.speed import MEASURED

KILLS, SEED = 3, 0
# `star-jax`, but the two processes compile each program once.
STAR_JAX = """
import sys
from quick_programs import share_programs_between_processes
from star_jax.launch.cli import main
share_programs_between_processes()
sys.exit(main(sys.argv[1:]))
"""


def start(workdir: Path, clips: str, others: str, steps: int, processes: int) -> list[subprocess.Popen]:
    """`star-jax train` in as many processes, on two devices together."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        meet = f"localhost:{found.getsockname()[1]}"
    environment = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={2 // processes}",
        "NPROC": "2",  # threads of a device, on which the order of its sums depends
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    if processes > 1:
        environment["JAX_SHARE_BINARY_BETWEEN_HOSTS"] = "1"
    command = [sys.executable, "-c", STAR_JAX, "train", "--config", "configs/tiny.py"]
    command += ["--workdir", workdir, "--quiet", "--config.data.source", clips]
    command += ["--config.train.validation_source", others, f"--config.train.num_steps={steps}"]
    command += ["--config.train.checkpoint_every_steps=10", "--config.train.validate_every_steps=100"]
    meeting = ["--coordinator", meet, "--num-processes", str(processes), "--process-id"]
    return [
        subprocess.Popen(
            [*map(str, command), *([*meeting, str(i)] if processes > 1 else [])],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
        )
        for i in range(processes)
    ]


def finish(running: list[subprocess.Popen]) -> None:
    """Waits for the end, which must be a good one."""
    assert [process.wait() for process in running] == [0] * len(running)


def lines_of(workdir: Path) -> list[dict[str, float]]:
    """What was computed, without what was measured by the clock."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in MEASURED} for line in lines]


def last_step(workdir: Path) -> int:
    """Newest complete checkpoint."""
    steps = [path.name for path in (workdir / "checkpoints").glob("*")]
    return max([int(name) for name in steps if name.isdigit()], default=0)


def main(clips: str, others: str, folder: Path, steps: int) -> None:
    """Runs both, compares them and draws the picture."""
    rng = random.Random(SEED)
    finish(start(folder / "one", clips, others, steps, 1))
    kills = sorted(rng.sample(range(steps // 10, steps - steps // 10), KILLS))
    gone_on = []
    for step in kills:
        running = start(folder / "two", clips, others, steps, 2)
        while last_step(folder / "two") < step // 10 * 10:
            assert all(process.poll() is None for process in running), "it ended by itself"
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 10))
        for process in rng.sample(running, len(running)):
            process.send_signal(signal.SIGKILL)
            process.wait()
        gone_on.append(last_step(folder / "two"))
        print(f"killed; goes on at step {gone_on[-1]}", flush=True)
    finish(start(folder / "two", clips, others, steps, 2))
    one, two = lines_of(folder / "one"), lines_of(folder / "two")
    same = one == two
    draw(one, two, gone_on, same, folder / "curve.png")
    differ = [line["step"] for line, other in zip(one, two, strict=True) if line != other]
    print("bit-identical" if same else f"lines differ, first at step {differ[0]}: {one[0]} {two[0]}")


def draw(one: list, two: list, gone_on: list[int], same: bool, path: Path) -> None:
    """Loss and validation loss of both runs, and where the second was killed."""
    figure = Figure(figsize=(8, 3.4), layout="constrained", dpi=90)
    for axis, name in zip(figure.subplots(1, 2), ("loss", "validation_loss"), strict=True):
        for lines, style, label in ((one, "-", "one process"), (two, "--", "two processes, killed")):
            points = [(line["step"], line[name]) for line in lines if name in line]
            axis.plot(*np.transpose(points), f".{style}", linewidth=3 if style == "-" else 1.5, label=label)
        for step in gone_on:
            axis.axvline(step, color="0.6", linewidth=0.8)
        axis.set_title(name)
        axis.set_xlabel("step")
    lines, labels = figure.axes[0].get_legend_handles_labels()
    title = "bit-identical" if same else "not the same"
    figure.legend(lines, labels, title=title, loc="outside upper center", ncols=2)
    figure.savefig(path)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 200)
