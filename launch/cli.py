"""The `star-jax` command: one subcommand per job, one line and an exit code per error.

Exit codes: 0 done, 1 failed while running, 2 bad input or arguments, 130 interrupted.
"""

import argparse
import gc
import importlib
import logging
import multiprocessing
import os
import sys
from importlib import metadata

from star_jax.errors import StarError, first_line

# Each module has HELP (one line), add_arguments(parser) and run(args); imports of jax wait until run().
COMMANDS = {
    "upscale": "star_jax.launch.upscale",
    "convert": "star_jax.launch.convert",
    "export": "star_jax.launch.export",
    "inspect": "star_jax.launch.inspect",
    "degrade": "star_jax.launch.degrade",
    "prepare": "star_jax.launch.prepare",
    "evaluate": "star_jax.launch.evaluate",
    "compare": "star_jax.launch.compare",
    "train": "star_jax.launch.train",
    "train-vae": "star_jax.launch.train_vae",
    "train-decoder": "star_jax.launch.train_decoder",
    "assemble": "star_jax.launch.assemble",
    "merge-lora": "star_jax.launch.merge_lora",
    "benchmark": "star_jax.launch.benchmark",
    "compile-check": "star_jax.launch.compile_check",
}


INTERRUPTED = 130  # exit code, as in shells


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser with all subcommands, without heavy imports."""
    parser = argparse.ArgumentParser(
        prog="star-jax", description="STAR video super-resolution in JAX: train, convert, upscale, benchmark."
    )
    parser.add_argument("--version", action="version", version=f"star-jax {metadata.version('star_jax')}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module_name in COMMANDS.items():
        module = importlib.import_module(module_name)
        sub = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs one subcommand and returns its exit code.

    Args:
      argv: arguments after the program's name; by default those of the process.
    """
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    args.rest = rest
    if args.rest and not getattr(args, "takes_rest", False):  # --config.group.key=value of training commands
        parser.error(f"unrecognized arguments: {' '.join(args.rest)}")
    # Tracing makes many long-lived objects: with Python's defaults, garbage collection takes a third of the time.
    gc.set_threshold(50_000, 20, 50)
    try:
        return args.run(args) or 0
    except StarError as error:
        if args.debug:
            raise
        print(f"star-jax {args.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interruption:
        text = str(interruption) or "interrupted; nothing was left half-written"
        print(f"star-jax {args.command}: {text}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if args.debug:
            raise
        print(f"star-jax {args.command}: {_unexpected_message(error)}", file=sys.stderr)
        return 1


def _unexpected_message(error: Exception) -> str:
    """One-line message for an unexpected exception, such as full memory, a missing driver or a bug."""
    if "RESOURCE_EXHAUSTED" in str(error):
        return (
            f"the device's memory is full ({first_line(error)}); when upscaling, set --max-memory or --tile; when "
            "training, set train.remat=full, a smaller train.batch_size or mesh.fsdp"
        )
    return f"{type(error).__name__}: {first_line(error)} (--debug shows where)"


def console() -> None:
    """Runs the command, and ends the process with its exit code.

    After an interrupt the process ends at once: a running computation cannot be stopped, and Python's normal
    shutdown would release its device, which causes a segmentation fault.
    """
    code = main()
    if code == INTERRUPTED:
        for child in multiprocessing.active_children():
            child.terminate()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    console()
