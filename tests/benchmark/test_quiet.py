"""What shares the machine is stopped while something is timed, and only then."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from star_jax.benchmark import quiet as quiet_module
from star_jax.benchmark.quiet import pausing, quiet
from star_jax.launch.cli import main


def state_of(process: subprocess.Popen) -> str:
    """S or R of one that runs, T of one that is stopped."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


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
        assert state_of(other) in "SR"
        with pytest.raises(ZeroDivisionError), quiet():
            assert state_of(other) == "T"
            _ = 1 / 0
        time.sleep(0.05)
        assert state_of(other) in "SR"
    with quiet():
        assert state_of(other) in "SR"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pause", "no_such_file"], "cannot read process groups from no_such_file: No such file"),
        (["--pause", "setup.py"], "not a number on each line; write one group's number"),
        (["--form", "geglu"], "--form geglu: write OPERATION=FORM"),
        (["--form", "geglu=fast"], "names variant geglu=fast; choose one of gelu, float32_erf"),
    ],
)
def test_mistakes(arguments, message, capsys):
    assert main(["benchmark", "inference", "--preset", "tiny", "--count-only", *arguments]) == 2
    assert message in capsys.readouterr().err
