"""Shares and times of a run over several files."""

import time

import pytest

from star_jax.inference.display import FileWork, RunProgress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_time_left_follows_what_each_stage_has_taken(clock):
    run = RunProgress([FileWork(name, 10, 100, 2) for name in ("a", "b")], "none")
    assert (run.share, run.seconds_left) == (0, None)
    run.begin(0)
    for stage, seconds in (("read", 1.0), ("encode", 10.0), ("sample", 20.0), ("decode", 5.0)):
        clock[0] += seconds
        run.advance(stage, 10)
    assert run.share == pytest.approx(0.5) and run.seconds_left == pytest.approx(36)
    run.end()
    run.begin(1)
    clock[0] += 20
    run.advance("encode", 5)  # at a quarter of the speed
    left = 5 * 30 / 15 + 20 + 5 + 1
    assert run.seconds_left == pytest.approx(left)
    run.end()  # failed: the rest of it costs nothing
    assert (run.share, run.seconds_left) == (1, 0)


def test_compiling_counts_for_no_speed(clock):
    run = RunProgress([FileWork("a", 10, 100, 2)], "none")
    run.begin(0)
    run._on_compilation("/jax/core/compile/jaxpr_to_mlir_module_duration", 0.1)
    clock[0] += 30
    assert run.compiling == 30 and "compiling for 0:00:30" in run.title()
    run._on_compilation("/jax/core/compile/backend_compile_duration", 30)
    run.advance("encode", 5)
    assert run.compiling == 0 and run.seconds_left is None and run.files[0].seconds["encode"] == 0
    clock[0] += 5
    run.advance("encode", 10)
    assert run.seconds_left == pytest.approx(10 * (4 * 2 + 2), rel=1e-3)  # and a little reading


def test_several_files_are_numbered(clock):
    run = RunProgress([FileWork(name, 10, 100, 2) for name in ("a.mp4", "b.mp4")], "none")
    run.begin(1)
    clock[0] += 1
    run.advance("decode", 5)
    assert run.title() == "file 2 of 2, b.mp4: decoding"
    assert RunProgress([FileWork("a.mp4", 1, 1, 1)], "none").title() == "a.mp4: starting"
