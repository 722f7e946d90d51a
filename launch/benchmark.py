"""Measure speed and memory.

  star-jax benchmark inference --preset i2vgen-xl --frames 32 --json unet.json
  star-jax benchmark train --config configs/star_i2vgenxl.py --json train.json
  star-jax benchmark layers --budget 60 --json layers.json
  star-jax benchmark compare before.json after.json
  star-jax benchmark data --source clips/ --recipe realbasicvsr

`star-jax benchmark WHAT --help` lists the options of each.
"""

import argparse
import importlib

HELP = "measure speed and memory"

# Each module has HELP, add_arguments(parser) and run(args), like the subcommands of star-jax.
BENCHMARKS = {
    "inference": "star_jax.launch.benchmarks.inference",
    "train": "star_jax.launch.benchmarks.train",
    "layers": "star_jax.launch.benchmarks.layers",
    "compare": "star_jax.launch.benchmarks.compare",
    "data": "star_jax.launch.benchmarks.data",
}


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
        # Without a default: it would undo a --debug that stands before WHAT.
        sub.add_argument(
            "--debug",
            action="store_true",
            default=argparse.SUPPRESS,
            help="show the traceback of an error",
        )
        module.add_arguments(sub)
        sub.set_defaults(run_benchmark=module.run)


def run(args: argparse.Namespace) -> int | None:
    return args.run_benchmark(args)
