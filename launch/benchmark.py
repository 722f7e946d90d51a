"""Measure speed and memory.

  star-jax benchmark inference --preset i2vgen-xl --frames 32 --json unet.json
  star-jax benchmark train --config configs/star_i2vgenxl.py --json train.json
  star-jax benchmark layers --budget 60 --json layers.json
  star-jax benchmark compare before.json after.json
  star-jax benchmark data --source clips/ --recipe realbasicvsr

With --pause FILE a training run may share the device: it is paused whenever something is timed.
`star-jax benchmark WHAT --help` lists the options of each.
"""

import argparse
import contextlib
import importlib

HELP = "measure speed and memory"

# Each module has HELP, add_arguments(parser) and run(args), like the subcommands of star-jax.
BENCHMARKS = {
    "inference": "star_jax.launch.benchmarks.inference",
    "train": "star_jax.launch.benchmarks.train",
    "layers": "star_jax.launch.benchmarks.layers",
    "blocks": "star_jax.launch.benchmarks.blocks",
    "compare": "star_jax.launch.benchmarks.compare",
    "data": "star_jax.launch.benchmarks.data",
}

_ON_THE_DEVICE = ("inference", "train", "layers", "blocks")
_WITH_FORMS = ("inference", "train")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subparsers = parser.add_subparsers(dest="benchmark", required=True, metavar="WHAT")
    for name, module_name in BENCHMARKS.items():
        module = importlib.import_module(module_name)
        sub = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        # There is no default, because it would override a --debug before WHAT.
        sub.add_argument(
            "--debug",
            action="store_true",
            default=argparse.SUPPRESS,
            help="show the traceback of an error",
        )
        if name in _ON_THE_DEVICE:
            sub.add_argument(
                "--pause",
                metavar="FILE",
                help="pause the process groups in FILE, one number per line, whenever something is timed",
            )
        if name in _WITH_FORMS:
            sub.add_argument(
                "--form",
                action="append",
                default=[],
                metavar="OPERATION=FORM",
                help="form of an operation instead of this device's default, such as geglu=gelu; may be repeated",
            )
        module.add_arguments(sub)
        sub.set_defaults(run_benchmark=module.run)


def run(args: argparse.Namespace) -> int | None:
    from star_jax.benchmark.quiet import pausing

    with pausing(getattr(args, "pause", None)), _forms(getattr(args, "form", [])):
        return args.run_benchmark(args)


def _forms(pairs: list[str]) -> contextlib.AbstractContextManager[None]:
    if not pairs:
        return contextlib.nullcontext()
    from star_jax.errors import InputError
    from star_jax.ops.variants import using

    forms = dict(pair.partition("=")[::2] for pair in pairs)
    if "" in forms.values():
        raise InputError(f"--form {' '.join(pairs)}: write OPERATION=FORM, such as geglu=gelu")
    return using(**forms)
