"""Metric writers: what they write, and that a resumed run does not write it twice."""

import json

import pytest
from etils import epath

from star_jax.train.metrics import JsonLinesWriter, MetricWindow, create_writer


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
