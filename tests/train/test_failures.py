"""What breaks ends in one line, with the last good state kept, and the same command goes on."""

import fcntl
import json
import logging
import resource
import shutil
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from saved_state import saved_state
from toy_training import ToyObjective, toy_config

from star_jax.errors import DiskError, InputError, RunError
from star_jax.train import stall
from star_jax.train.checkpoints import restore_weights
from star_jax.train.loop import Outcome, train
from star_jax.train.stages import Stages
from star_jax.train.stall import StallWatch


def run(workdir: Path, objective=None, **changes) -> Outcome:
    return train(objective or ToyObjective(), toy_config(**changes), workdir, quiet=True)


def lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def state_of(workdir: Path, step: int):
    config = toy_config()
    return jax.device_get(saved_state(workdir, step, ToyObjective(), config.optimizer, config.train))


def test_a_work_directory_takes_one_run_at_a_time(tmp_path):
    with (tmp_path / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        print("process 4711 on node-3", file=other, flush=True)
        with pytest.raises(InputError, match=r"is in use by another run \(process 4711 on node-3\); wait"):
            run(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert run(tmp_path, num_steps=1) == Outcome(1, finished=True)


def test_a_bucket_that_takes_no_checkpoints_is_refused_at_the_start():
    with pytest.raises(
        InputError, match="az://bucket/run cannot hold checkpoints; give a path, gs:// or s3://"
    ):
        run("az://bucket/run")


@pytest.fixture(scope="module")
def skipping(tmp_path_factory) -> Path:
    """A run whose third batch was no number."""
    workdir = tmp_path_factory.mktemp("skipping")
    assert run(workdir, ToyObjective(poison=3), skip_bad_steps=1, keep_checkpoints=6).finished
    return workdir


def test_a_step_that_is_no_number_can_be_skipped(skipping):
    before, after = state_of(skipping, 2), state_of(skipping, 3)
    assert (before.step, after.step) == (2, 3)
    jax.tree.map(np.testing.assert_array_equal, after.replace(step=before.step), before)
    assert [line.get("skipped_steps") for line in lines(skipping)] == [None, 1, None]
    assert all(np.isfinite(value) for line in lines(skipping) for value in line.values())


def test_a_spike_is_a_bad_step_and_many_in_a_row_stop_the_run(skipping, tmp_path, caplog):
    norms = {line["step"]: line["grad_norm"] for line in lines(skipping)}
    limit = {"largest_grad_norm": min(norms.values()) / 100}
    with pytest.raises(RunError, match=r"above train\.largest_grad_norm=.*, at step 1; no checkpoint"):
        run(tmp_path / "stops", **limit)
    with caplog.at_level(logging.WARNING), pytest.raises(RunError, match="at step 4 after 3 skipped steps"):
        run(tmp_path / "skips", skip_bad_steps=3, **limit)
    assert "skipped step 3: grad_norm is" in caplog.text
    # The steps in a row are part of a checkpoint: a restart does not begin to count anew.
    with pytest.raises(RunError, match="at step 4 after 3 skipped steps; the checkpoint of step 3 is good"):
        run(tmp_path / "skips", skip_bad_steps=3, **limit)


class FullDisk(ToyObjective):
    """From its validation on, nothing can be written any more."""

    def __init__(self, workdir: Path):
        super().__init__()
        self.workdir = workdir

    def validate(self, *args):
        while not (self.workdir / "checkpoints" / "2").is_dir():
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        return super().validate(*args[:-1], None)


def test_a_disk_that_is_full_while_metrics_are_written(tmp_path):
    try:
        with pytest.raises(
            DiskError, match=r"cannot write to --workdir .*; free disk space or raise the quota"
        ):
            run(tmp_path, FullDisk(tmp_path), checkpoint_every_steps=2, validate_every_steps=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert run(tmp_path).finished
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6]


def test_weights_that_changed_on_disk_are_not_assembled(skipping, tmp_path):
    shutil.copytree(skipping / "checkpoints", tmp_path / "checkpoints")
    folder = tmp_path / "checkpoints" / "6" / "state" / "ocdbt.process_0" / "d"
    for file in folder.iterdir():
        content = np.frombuffer(file.read_bytes(), np.uint8).copy()
        content[1000::5000] ^= 1
        file.write_bytes(content.tobytes())
    abstract = ToyObjective().abstract_params()[0]
    with pytest.raises(InputError, match=r"6 of .* is damaged|cannot be read"):
        restore_weights(tmp_path, abstract)
    assert restore_weights(tmp_path, abstract, step=5)[0] == 5


def test_a_run_that_hangs_ends_and_says_where(tmp_path, monkeypatch, capsys):
    ended = threading.Event()
    monkeypatch.setattr(stall.os, "_exit", lambda code: ended.set())
    stages = Stages()
    with StallWatch(tmp_path, 0.2, stages):
        stages.at("waiting for data", 7)
        assert ended.wait(10)
    line = capsys.readouterr().err
    assert line.startswith(
        "star-jax: no progress for 0.2 s (train.stall_seconds) while waiting for data, step 7"
    )
    (stacks,) = (tmp_path / "logs").glob("stalled_*.txt")
    assert "test_a_run_that_hangs" in stacks.read_text()
