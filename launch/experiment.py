"""Reads a training configuration from the command line: `--config FILE[:ARG]` and `--config.group.key=value`."""

import argparse
import dataclasses
import importlib.util
import inspect
import traceback
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from star_jax.errors import InputError

if TYPE_CHECKING:
    from star_jax.train.loop import Outcome

EXIT_SIGTERM = 143  # exit code of a run that SIGTERM stopped, after it has saved
_PREFIX = "--config."


def add_config_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Adds --config; `read_experiment` reads changed keys from args.rest, launch/cli.py's unknown arguments."""
    parser.add_argument(
        "--config",
        required=required,
        metavar="FILE[:ARG]",
        help="Python file with get_config(arg), or the name of a packaged one, such as configs/tiny.py; any key "
        "can be changed, as in --config.train.num_steps=6",
    )
    parser.set_defaults(takes_rest=True)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of a training run, including --config."""
    add_config_arguments(parser)
    parser.add_argument(
        "--workdir",
        required=True,
        metavar="DIR",
        help="directory of checkpoints, metrics and pictures; a path, gs://... or s3://...",
    )
    parser.add_argument(
        "--allow-changed-config",
        action="store_true",
        help="resume although DIR was begun with other values; the new ones are recorded",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


def read_experiment(args: argparse.Namespace, kind: type | None = None) -> Any:
    """Reads the configuration that the command line gives.

    Args:
      args: parsed arguments, with `config` and `rest`.
      kind: class of the configuration; `ExperimentConfig` by default.

    Raises:
      InputError: the file is missing, has a mistake or is for another command, or a key or value is unknown.
    """
    from star_jax.train.config import ExperimentConfig

    kind = kind or ExperimentConfig
    config = run_config_file(args.config)
    if not isinstance(config, kind):
        raise InputError(
            f"{args.config} returns {type(config).__name__}, but this command needs {kind.__name__}; star-jax "
            "train, train-vae and train-decoder take different files"
        )
    return with_changes(config, args.rest)


def report_end(outcome: "Outcome", num_steps: int, result: str) -> int:
    """Prints one line about the end of a training run; returns the exit code.

    Args:
      outcome: how the run ended.
      num_steps: number of steps of the whole run.
      result: description of the result once all steps are done.
    """
    if not outcome.finished:
        print(f"stopped by SIGTERM, saved at step {outcome.step}; the same command resumes")
        return EXIT_SIGTERM
    print(f"step {outcome.step} of {num_steps}: done; {result}")
    return 0


def with_changes(config: Any, arguments: Sequence[str]) -> Any:
    """Applies `--config.group.key=value` (or `--config.group.key value`) to a configuration.

    Args:
      config: dataclass of groups, which is not modified.
      arguments: a list of such changes.

    Raises:
      InputError: an argument has another form or an unknown key, or its value has the wrong type or is out of
        range.
    """
    from absl import flags
    from ml_collections import config_flags

    from star_jax.train.config import from_groups

    for kind in (bool, int, float, str):
        config_flags.register_flag_parser_for_type(kind, _value_parser(kind))
    argv = [__name__, *_joined(arguments)]
    for argument in argv[1:]:
        _check_key(argument, config)
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dataclass("config", _mutable(config), flag_values=values, sys_argv=argv)
        values(argv)
    except flags.Error as error:
        raise InputError(str(error).removeprefix("flag ")) from error
    return from_groups(type(config), dataclasses.asdict(cast(Any, values["config"].value)))


def run_config_file(location: str) -> Any:
    """Runs get_config of FILE[:ARG], and returns the configuration.

    Raises:
      InputError: the file is missing or has a mistake; the message has the line number.
    """
    from star_jax.train.config import from_groups

    name, colon, argument = location.partition(":")
    path = _find(name)
    spec = importlib.util.spec_from_file_location(f"star_jax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{name} is not a Python file; give one with a get_config function")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        get_config = module.get_config
        if colon and not inspect.signature(get_config).parameters:
            raise InputError(f"{name} takes no argument; leave out {':' + argument!r}")
        config = get_config(argument) if colon else get_config()
        if not dataclasses.is_dataclass(config) or isinstance(config, type):
            raise TypeError(f"get_config returned {config!r}, not an ExperimentConfig")
        return from_groups(type(config), dataclasses.asdict(config))  # checks the types
    except InputError:
        raise
    except Exception as error:  # a user's file may raise anything
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = frames[-1].lineno if frames else getattr(error, "lineno", None)
        where = f"{path}, line {line}" if line else str(path)
        raise InputError(f"{where}: {type(error).__name__}: {error}; correct the file") from error


def _find(name: str) -> Path:
    """Path of the file, or of the packaged one with that name."""
    import star_jax.configs

    packaged = Path(star_jax.configs.__path__[0])
    for path in (Path(name), packaged.parent / name, packaged / name.removeprefix("configs/")):
        if path.is_file():
            return path.absolute()
    known = ", ".join(sorted(f"configs/{path.name}" for path in packaged.glob("[a-z]*.py")))
    raise InputError(f"there is no config file {name}; give a file, or one of {known}")


def _joined(arguments: Sequence[str]) -> list[str]:
    """["--config.a.b", "1"] -> ["--config.a.b=1"], because a bool flag without a value would mean true."""
    joined, left = [], list(arguments)
    while left:
        argument = left.pop(0)
        if argument.startswith(_PREFIX) and "=" not in argument:
            if not left or left[0].startswith("--"):
                raise InputError(f"{argument} has no value; write {argument}=VALUE")
            argument += f"={left.pop(0)}"
        joined.append(argument)
    return joined


def _check_key(argument: str, config: Any) -> None:
    """Rejects an unknown key, and suggests the nearest one, which the library's message does not."""
    from star_jax.train.config import suggestion

    if not argument.startswith(_PREFIX):
        raise InputError(f"unknown argument {argument!r}; see --help")
    path, _, value = argument.removeprefix(_PREFIX).partition("=")
    group, _, key = path.partition(".")
    groups = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    if group not in groups:
        raise InputError(f"{_PREFIX}{path} does not exist{suggestion(group, groups)}")
    keys = [f.name for f in dataclasses.fields(groups[group])]
    if not key:
        raise InputError(
            f"{_PREFIX}{path} is a group; give one of its keys, such as {_PREFIX}{path}.{keys[0]}={value}"
        )
    if key not in keys:
        raise InputError(f"{_PREFIX}{path} does not exist{suggestion(key, keys)}")


def _value_parser(kind: type) -> Any:
    """The library's parser of a type, which also accepts `None`; whether the key may be None is checked later."""
    from absl import flags

    class ValueParser(flags.ArgumentParser):
        def parse(self, argument: Any) -> Any:
            if not isinstance(argument, str):  # the value in the file
                return argument
            if kind is bool and argument.lower() in ("true", "false"):
                return argument.lower() == "true"
            if argument == "None":
                return None
            try:
                if kind is not bool:
                    return kind(argument)
            except ValueError:
                pass
            raise ValueError(f"expected {kind.__name__}")

    return ValueParser()


def _mutable(config: Any) -> Any:
    """Copies a config into mutable dataclasses with the same fields, because config_flags writes to them."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    values = {name: _mutable(v) if dataclasses.is_dataclass(v) else v for name, v in values.items()}
    twin = dataclasses.make_dataclass(type(config).__name__, typing.get_type_hints(type(config)).items())
    return twin(**values)
