"""The command as a whole: what nobody foresaw is one line too, --debug shows it, --version says what runs."""

from importlib import metadata

import pytest

from star_jax.launch import cli
from star_jax.launch import inspect as command
from star_jax.launch.cli import main


@pytest.fixture
def failing(monkeypatch):
    """`inspect` that fails in a way that it does not know."""

    def fail_with(error: Exception) -> None:
        def run(args):
            raise error

        monkeypatch.setattr(command, "run", run)

    return fail_with


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(5, "Input/output error"), "OSError: [Errno 5] Input/output error (--debug shows where)"),
        (ValueError("first\nsecond"), "ValueError: first second (--debug shows where)"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
            "the device's memory is full (RESOURCE_EXHAUSTED: Out",
        ),
    ],
)
def test_an_unexpected_error_is_one_line(failing, capsys, error, line):
    failing(error)
    assert main(["inspect", "anything"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"star-jax inspect: {line}") and printed.count("\n") == 1
    with pytest.raises(type(error)):
        main(["inspect", "anything", "--debug"])


@pytest.mark.parametrize("place", [1, 2])
def test_debug_of_a_benchmark_stands_anywhere(place):
    arguments = ["benchmark", "inference", "--preset", "none"]
    with pytest.raises(Exception, match="preset is 'none'"):
        main([*arguments[:place], "--debug", *arguments[place:]])


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"star-jax {metadata.version('star_jax')}\n"


@pytest.mark.parametrize(("error", "way"), [(KeyboardInterrupt(), "at once"), (ValueError("x"), "by Python")])
def test_an_interrupted_process_ends_without_waiting_for_what_is_computed(failing, monkeypatch, error, way):
    """A computation that is under way would not survive Python's own end."""

    def exit_at_once(code):
        raise SystemExit("at once", code)

    failing(error)
    monkeypatch.setattr("sys.argv", ["star-jax", "inspect", "anything"])
    monkeypatch.setattr("os._exit", exit_at_once)
    with pytest.raises(SystemExit) as end:
        cli.console()
    assert end.value.args == (("at once", 130) if way == "at once" else (1,))
