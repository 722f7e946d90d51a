"""Progress: plain lines in logs, a bar on terminals, nothing when quiet."""

import io
import sys

import pytest

from star_jax import progress as module
from star_jax.progress import progress


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_log_gets_a_line_every_ten_seconds(capsys, clock):
    with progress("Upscaling", 8, "frames") as report:
        for _ in range(8):
            clock.now += 4
            report.advance()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "Upscaling: 37% (3/8 frames), 0:00:12 spent, 0:00:20 left",
        "Upscaling: 75% (6/8 frames), 0:00:24 spent, 0:00:08 left",
        "Upscaling: 100% (8/8 frames), done in 0:00:32",
    ]


def test_bytes_are_shown_as_sizes(capsys, clock):
    with progress("Converting", 3 * 2**30, "bytes") as report:
        clock.now += 12
        report.advance(2**29)
        report.advance(5 * 2**29)
    assert capsys.readouterr().err.splitlines() == [
        "Converting: 16% (512 MiB of 3 GiB), 0:00:12 spent, 0:01:00 left",
        "Converting: 100% (3 GiB of 3 GiB), done in 0:00:12",
    ]


def test_an_error_does_not_say_done(capsys, clock):
    with pytest.raises(ValueError, match="broken"), progress("Upscaling", 8, "frames") as report:
        report.advance(2)
        raise ValueError("broken")
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("Reading [1/2]", 4, "frames") as report:
        report.advance(3)
        report.advance()
    shown = terminal.getvalue()
    assert "Reading [1/2]" in shown and "100%" in shown and "4/4 frames" in shown and "left" in shown


def test_quiet_shows_nothing(capsys, clock):
    with progress("Upscaling", 2, "frames", quiet=True) as report:
        clock.now += 60
        report.advance(2)
    assert capsys.readouterr() == ("", "")
