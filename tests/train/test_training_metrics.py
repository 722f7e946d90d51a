"""Metric writers: what they write, and that a resumed run does not write it twice."""

import json
import sys

import pytest
from etils import epath
from toy_training import ToyObjective, toy_config

from star_jax.errors import InputError
from star_jax.train.curves import read_curves
from star_jax.train.loop import train
from star_jax.train.metrics import JsonLinesWriter, MetricWindow, create_writer
from star_jax.train.stages import SHARES, Stages


def test_lines_after_the_resumed_step_are_written_anew(tmp_path):
    path = epath.Path(tmp_path) / "metrics.jsonl"
    writer = JsonLinesWriter(path, 0)
    for step in (2, 4, 6):
        writer.write_scalars(step, {"loss": step / 10})
    with path.open("a") as file:
        file.write('{"step": 8, "lo')
    resumed = JsonLinesWriter(path, 4)
    resumed.write_scalars(6, {"loss": float("nan")})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"step": 2, "loss": 0.2}, {"step": 4, "loss": 0.4}, {"step": 6, "loss": None}]


def test_a_window_goes_on_from_its_state():
    whole, window = MetricWindow(), MetricWindow()
    for value in (0.1, 0.2):
        whole.add({"loss": value})
        window.add({"loss": value})
    window = MetricWindow(json.loads(json.dumps(window.state())))
    for each in (whole, window):
        each.add({"loss": 0.7})
    assert whole.take() == window.take() == {"loss": pytest.approx(1 / 3)}
    assert whole.state() == {"count": 0, "sums": {}}


def test_all_writers_get_every_value(tmp_path, capsys):
    pytest.importorskip("tensorboardX")
    writer = create_writer(epath.Path(tmp_path), 1)
    for step in (2, 4):
        writer.write_scalars(step, {"loss": 0.5, "seconds_per_step": 12.0})
    writer.flush()
    writer.close()
    assert capsys.readouterr().out.splitlines() == [
        "step 2  loss 0.5  seconds_per_step 12",
        "step 4  loss 0.5  seconds_per_step 12",
    ]
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert events.read_bytes().count(b"seconds_per_step") == 2


def test_a_run_says_where_its_time_went_and_draws_its_curves(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    train(ToyObjective(), toy_config(curves=True, validate_every_steps=3), tmp_path, quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    measured = next(line for line in lines if line["step"] == 6 and "loss" in line)
    assert sum(measured[name] for name in SHARES.values()) == pytest.approx(1)
    assert 0 < measured["goodput"] < 1 and measured["start_share"] > 0 and measured["validation_share"] > 0
    assert measured["frames_per_second"] == pytest.approx(2 * measured["clips_per_second"])
    assert measured["host_memory_gib"] > 0.05
    assert "goodput" in (shown := capsys.readouterr().out) and "_share" not in shown
    page = (tmp_path / "curves.html").read_text()
    assert page.count("<svg") == 1 and page.endswith("</html>\n")
    assert "<img src='validation/0000006.png'" in page and "<a href='validation/0000003.png'>" in page
    curves = read_curves((tmp_path / "metrics.jsonl").read_text())
    assert [step for step, _ in curves["loss"]] == [2, 4, 6]
    assert [step for step, _ in curves["validation_loss"]] == [3, 6]


def test_stages_are_timed_by_a_clock_that_does_not_jump(monkeypatch):
    now = iter([0.0, 3.0, 4.0, 10.0])
    monkeypatch.setattr("star_jax.train.stages.time.monotonic", lambda: next(now))
    stages = Stages()
    stages.at("waiting for data", 1)
    stages.at("computing", 1)
    expected = {"start_share": 0.3, "data_wait_share": 0.1, "goodput": 0.6}
    assert stages.shares() == pytest.approx({"validation_share": 0, "save_share": 0, **expected})


class Wandb:
    """What the library is asked to do."""

    def __init__(self):
        self.calls = []

    def Settings(self, **settings):
        return settings

    def init(self, **kwargs):
        self.calls.append(("init", kwargs["project"], kwargs["id"], kwargs["resume"]))
        return self

    def log(self, scalars, step):
        self.calls.append((step, scalars))

    def finish(self):
        self.calls.append("finish")


def test_weights_and_biases_gets_every_value_and_one_run_per_work_directory(tmp_path, monkeypatch):
    library = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", library)
    for first_step in (0, 2):
        writer = create_writer(epath.Path(tmp_path), first_step, "star")
        writer.write_scalars(first_step + 2, {"loss": 0.5})
        writer.close()
    begun, first, finished, resumed, second, _ = library.calls
    assert begun == resumed and begun[1] == "star" and begun[3] == "allow" and finished == "finish"
    assert (first, second) == ((2, {"loss": 0.5}), (4, {"loss": 0.5}))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"pip install 'star_jax\[wandb\]'"):
        create_writer(epath.Path(tmp_path), 0, "star")
