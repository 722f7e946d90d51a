"""Interrupted runs end as uninterrupted ones: kills, damaged checkpoints, SIGTERM, NaN, the end of the data."""

import dataclasses
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from saved_state import saved_state
from toy_training import ToyObjective, toy_config

from star_jax.errors import InputError, RunError
from star_jax.files import seal
from star_jax.train.loop import Outcome, train
from star_jax.train.speed import MEASURED

GOLDEN = Path(__file__).parents[1] / "golden"


def run(workdir: Path, objective=None, **changes) -> Outcome:
    return train(objective or ToyObjective(), toy_config(**changes), workdir, quiet=True)


def metrics(workdir: Path) -> list[dict]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in MEASURED} for line in lines]


def checkpoint(workdir: Path, step: int = 6):
    """Arrays, data position and meta of a checkpoint."""
    config = toy_config()
    state = saved_state(workdir, step, ToyObjective(), config.optimizer, config.train)
    folder = workdir / "checkpoints" / str(step)
    texts = [next((folder / part).iterdir()).read_text() for part in ("data", "meta")]
    return jax.device_get(state), *map(json.loads, texts)


def assert_same_run(workdir: Path, other: Path) -> None:
    state, *rest = checkpoint(workdir)
    other_state, *other_rest = checkpoint(other)
    jax.tree.map(np.testing.assert_array_equal, state, other_state)
    assert rest == other_rest and rest[0]["position"] == 48
    assert metrics(workdir) == metrics(other)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nothing interrupted, checkpointed at its last steps."""
    workdir = tmp_path_factory.mktemp("whole")
    assert run(workdir) == Outcome(6, finished=True)
    assert [line["step"] for line in metrics(workdir)] == [2, 4, 6]
    return workdir


@pytest.mark.parametrize(("how", "saved"), [("kill", [1, 2, 3]), ("kill-in-save", [1, 2])])
def test_a_killed_run_resumes_exactly(whole, tmp_path, how, saved):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    script = Path(__file__).parent / "train_toy.py"
    ended = subprocess.run(
        [sys.executable, script, tmp_path, how], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert sorted(int(name) for name in names if name.isdigit()) == saved
    assert len(names) == 3  # the unfinished one is there under another name
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": 0.')  # as a kill may leave it
    assert run(tmp_path) == Outcome(6, finished=True)
    assert_same_run(whole, tmp_path)


def flip(content: bytes) -> bytes:
    """One bit in the middle is another: of arrays that hardly compress, nothing else would notice."""
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 4
    return bytes(changed)


DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "zeroed": lambda content: bytes(len(content)),
    "garbage": lambda content: np.random.default_rng(0).bytes(len(content)),
    "flipped": flip,
}


@pytest.mark.parametrize(
    ("part", "how"),
    [
        ("state/d", "cut"),
        ("state/ocdbt.process_0/d", "flipped"),
        ("state/ocdbt.process_0/d", "missing"),
        ("state/ocdbt.process_0/d", "garbage"),
        ("state/_METADATA", "zeroed"),
        ("state/array_metadatas", "flipped"),
        ("state/manifest.ocdbt", "cut"),
        ("state", "missing"),
        ("meta", "flipped"),
        ("data", "flipped"),
        ("data", "cut"),
    ],
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(whole, tmp_path, part, how, caplog):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    target = tmp_path / "checkpoints" / "6" / part
    files = [target] if target.is_file() else [path for path in target.rglob("*") if path.is_file()]
    largest = max(files, key=lambda file: file.stat().st_size)
    if how == "missing" and part == "state":
        shutil.rmtree(target)
    elif how == "missing":
        largest.unlink()
    else:
        largest.write_bytes(DAMAGES[how](largest.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert run(tmp_path) == Outcome(6, finished=True)
    assert "checkpoint 6 is damaged (" in caplog.text
    assert [path.name for path in (tmp_path / "damaged").iterdir()] == ["6"]
    assert_same_run(whole, tmp_path)


def test_no_readable_checkpoint_is_an_error(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    for folder in (tmp_path / "checkpoints").iterdir():
        shutil.rmtree(folder / "state")
    with pytest.raises(RunError, match=r"no checkpoint in .* can be read \("):
        run(tmp_path)
    assert not (tmp_path / "damaged").exists()


def test_other_weights_are_not_taken_for_damage(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    with pytest.raises(InputError, match=r"begun with train\.ema_decay=0\.9, this configuration has 0\.0"):
        run(tmp_path, ema_decay=0.0)
    with pytest.raises(InputError, match=r"checkpoint 6 of .* holds other weights than"):
        train(ToyObjective(), toy_config(ema_decay=0.0), tmp_path, quiet=True, allow_changed_config=True)
    assert not (tmp_path / "damaged").exists()


class StoppedObjective(ToyObjective):
    """Gets SIGTERM at its first validation."""

    def validate(self, *args):
        os.kill(os.getpid(), signal.SIGTERM)
        return super().validate(*args)


def test_sigterm_saves_and_the_run_goes_on(whole, tmp_path):
    often = {"checkpoint_every_steps": 4, "validate_every_steps": 3}
    before = signal.getsignal(signal.SIGTERM)
    assert run(tmp_path, StoppedObjective(), **often) == Outcome(3, finished=False)
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "checkpoints" / "3").is_dir()
    assert (tmp_path / "validation" / "0000003.png").is_file()
    assert run(tmp_path) == Outcome(6, finished=True)
    for line, expected in zip(
        [line for line in metrics(tmp_path) if "loss" in line], metrics(whole), strict=True
    ):
        assert line == expected
    assert [line["step"] for line in metrics(tmp_path) if "validation_loss" in line] == [3]


def test_numbers_that_are_not_finite_stop_the_run(tmp_path):
    with pytest.raises(RunError, match=r"loss is nan at step 3; the checkpoint of step 2 is good"):
        run(tmp_path, ToyObjective(poison=3))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2"]


def test_the_end_of_the_data_is_saved(tmp_path):
    config = toy_config()
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, num_epochs=2))
    with pytest.raises(RunError, match=r"the data ended after step 2 of 6 \(saved\); raise data.num_epochs"):
        train(ToyObjective(), config, tmp_path, quiet=True)


def test_a_longer_run_goes_on(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    assert run(tmp_path) == Outcome(6, finished=True)  # nothing left to do
    assert run(tmp_path, num_steps=8, keep_checkpoints=2) == Outcome(8, finished=True)
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [7, 8]
    assert [line["step"] for line in metrics(tmp_path)] == [2, 4, 6, 8]


def test_a_validation_source_that_is_not_there_is_refused_at_the_start(tmp_path):
    changes = {"validate_every_steps": 6, "validation_source": "no/such/folder"}
    with pytest.raises(InputError, match="no/such/folder"):
        run(tmp_path, **changes)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_work_directory_of_the_first_version_goes_on(whole, tmp_path):
    """The toy's third step, as the first version that could train saved it."""
    with tarfile.open(GOLDEN / "work_directory_of_the_first_version.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    assert run(tmp_path) == Outcome(6, finished=True)
    found, expected = (jax.tree.leaves(checkpoint(workdir)[0]) for workdir in (tmp_path, whole))
    for ours, theirs in zip(found, expected, strict=True):  # compiled otherwise, and a step is 1e-2 long
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert [line["step"] for line in metrics(tmp_path)] == [2, 3, 4, 6]


def test_other_data_is_refused(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    config = toy_config(num_steps=8)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, source="synthetic:5"))
    with pytest.raises(RunError, match="the same elements cannot follow"):
        train(ToyObjective(), config, tmp_path, quiet=True)
    assert not (tmp_path / "damaged").exists()


def test_one_process_goes_on_where_two_were(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    folder = tmp_path / "checkpoints" / "5"
    rewrite(folder / "meta" / "metadata", process_count=2)
    (old,) = (folder / "data").glob("process_*")
    for index in range(2):  # each had half of a batch
        new = shutil.copy(old, folder / "data" / f"process_{index}-of-2.json")
        rewrite(Path(new), process_count=2, batch_size=4, position=20)
    old.unlink()
    assert run(tmp_path) == Outcome(6, finished=True)
    assert_same_run(whole, tmp_path)


def rewrite(path: Path, **changes) -> None:
    """Changes values in a file of a checkpoint as if they had been saved so."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(seal({name: value for name, value in values.items() if name != "sha256"})))
