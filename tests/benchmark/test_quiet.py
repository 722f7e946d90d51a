"""What shares the machine is stopped while something is timed, and only then."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from star_jax.benchmark import quiet as quiet_module
from star_jax.benchmark.quiet import pausing, quiet
from star_jax.launch.cli import main


def is_stopped(process: subprocess.Popen, expected: bool) -> bool:
    """Whether a process is stopped; a signal may take a moment until it is as expected."""
    deadline = time.monotonic() + 20
    while True:
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if (state == "T") == expected or time.monotonic() > deadline:
            return state == "T"
        time.sleep(0.01)


@pytest.fixture
def other(tmp_path, monkeypatch):
    monkeypatch.setattr(quiet_module, "_SETTLE_SECONDS", 0.05)
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, process_group=0
    ) as process:
        yield process
        process.kill()


def test_the_others_stop_while_something_is_timed(other, tmp_path):
    file = tmp_path / "groups"
    file.write_text(f"{other.pid}\n2147483646\n")  # the second one is gone
    with pausing(str(file)):
        assert not is_stopped(other, False)
        with pytest.raises(ZeroDivisionError), quiet():
            assert is_stopped(other, True)
            _ = 1 / 0
        assert not is_stopped(other, False)
    with quiet():
        assert not is_stopped(other, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pause", "no_such_file"], "cannot read process groups from no_such_file: No such file"),
        (["--pause", "setup.py"], "not a number on each line; write the ID of one group"),
        (["--form", "geglu"], "--form geglu: write OPERATION=FORM"),
        (["--form", "geglu=fast"], "names variant geglu=fast; choose one of gelu, float32_erf"),
    ],
)
def test_mistakes(arguments, message, capsys):
    assert main(["benchmark", "inference", "--preset", "tiny", "--count-only", *arguments]) == 2
    assert message in capsys.readouterr().err
