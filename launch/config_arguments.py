"""--config FILE[:ARG] and --config.group.key=value, for the commands that take a training configuration."""

import argparse
import importlib.util
import inspect
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from star_jax.errors import InputError

_PREFIX = "--config."


def add_config_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Adds --config; `read_experiment` finds the overrides in args.rest, where launch/cli.py puts the unknown."""
    parser.add_argument(
        "--config",
        required=required,
        metavar="FILE[:ARG]",
        help="Python file with get_config(arg); also the name of a packaged one, such as configs/tiny.py. Any key "
        "can be set as --config.train.num_steps=6",
    )
    parser.set_defaults(takes_rest=True)


def read_experiment(args: argparse.Namespace, kind: type | None = None) -> Any:
    """The configuration that the command line asks for.

    Args:
      args: parsed, with `config` and `rest`.
      kind: dataclass of groups; ExperimentConfig by default.

    Raises:
      InputError: no such file, a mistake in it, or a key or value that is not known.
    """
    from star_jax.train.config import ExperimentConfig, parse_experiment

    overrides = parse_overrides(args.rest)
    return parse_experiment(run_config_file(args.config), overrides, kind or ExperimentConfig)


def parse_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """["--config.train.num_steps=6", "--config.data.seed", "1"] -> {"train.num_steps": "6", "data.seed": "1"}.

    Raises:
      InputError: an argument is none of these.
    """
    overrides, left = {}, list(arguments)
    while left:
        argument = left.pop(0)
        if not argument.startswith(_PREFIX):
            raise InputError(f"unknown argument {argument!r}; see --help")
        path, equals, value = argument.removeprefix(_PREFIX).partition("=")
        if not equals:
            if not left or left[0].startswith("--"):
                raise InputError(f"{argument} has no value; write {argument}=VALUE")
            value = left.pop(0)
        overrides[path] = value
    return overrides


def run_config_file(location: str) -> Mapping[str, Any]:
    """Runs get_config of FILE[:ARG].

    Raises:
      InputError: no such file, or a mistake in it (named with its line).
    """
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
        if not hasattr(config, "items"):
            raise TypeError(f"get_config returned {config!r}, not groups of keys (ml_collections.ConfigDict)")
        return config
    except InputError:
        raise
    except Exception as error:  # whatever a user's file may raise
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = frames[-1].lineno if frames else getattr(error, "lineno", None)
        where = f"{path}, line {line}" if line else str(path)
        raise InputError(f"{where}: {type(error).__name__}: {error}; correct the file") from error


def _find(name: str) -> Path:
    """The file itself, or the packaged one of that name."""
    import star_jax.configs

    packaged = Path(star_jax.configs.__path__[0])
    for path in (Path(name), packaged.parent / name, packaged / name.removeprefix("configs/")):
        if path.is_file():
            return path.absolute()
    known = ", ".join(sorted(f"configs/{path.name}" for path in packaged.glob("[a-z]*.py")))
    raise InputError(f"no config file {name}; packaged are {known}")
