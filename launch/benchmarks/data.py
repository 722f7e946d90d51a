"""Measure the training data pipeline by stage, on one core, from decoding to the batch.

  star-jax benchmark data
  star-jax benchmark data --source clips/ --recipe heavy --step-seconds 6 --batch-size 1 --json data.json

Without --source, made-up videos are written and decoded.
"""

import argparse
import json
import sys

from star_jax.launch.data_arguments import parse_size

HELP = "measure decoding and degradations by stage"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", metavar="PATH", help="folder of videos, .csv, .jsonl or prepared dataset")
    parser.add_argument(
        "--recipe",
        default="realbasicvsr",
        metavar="NAME",
        help="recipe of degradations (default realbasicvsr)",
    )
    parser.add_argument(
        "--size", default="720x1280", metavar="HxW", help="ground truth size (default 720x1280)"
    )
    parser.add_argument("--frames", type=int, default=32, metavar="N", help="frames per clip (default 32)")
    parser.add_argument("--interval", type=int, default=2, metavar="N", help="frame interval (default 2)")
    parser.add_argument("--clips", type=int, default=16, metavar="N", help="clips to measure (default 16)")
    parser.add_argument(
        "--max-upscale",
        type=float,
        default=1.25,
        metavar="X",
        help="take videos down to size / X (default 1.25)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws (default 0)")
    parser.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="clips per accelerator and step (default 1)"
    )
    parser.add_argument(
        "--step-seconds", type=float, default=10.0, metavar="S", help="time of a training step (default 10)"
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="also write the report to FILE (without FILE: print it as JSON)",
    )


def run(args: argparse.Namespace) -> None:
    from star_jax.benchmark.data import measure, synthetic_videos
    from star_jax.data.config import DataConfig
    from star_jax.data.records import BadClipError
    from star_jax.errors import InputError, RunError
    from star_jax.files import check_report_path, write_json

    if args.json not in (None, "-"):
        check_report_path(args.json, ".json")
    height, width = parse_size(args.size)
    for name in ("clips", "batch_size", "step_seconds"):
        if getattr(args, name) <= 0:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be positive")

    def report(source: str) -> dict:
        config = DataConfig(
            source,
            recipe=args.recipe,
            num_frames=args.frames,
            frame_interval=args.interval,
            height=height,
            width=width,
            max_upscale=args.max_upscale,
            seed=args.seed,
        )
        try:
            return measure(
                config,
                num_clips=args.clips,
                batch_size=args.batch_size,
                seconds_per_step=args.step_seconds,
            )
        except BadClipError as error:
            raise RunError(f"cannot measure a clip: {error}; leave it out of --source") from error

    if args.source is None:
        with synthetic_videos(height, width, max(2, args.frames * args.interval + 8)) as folder:
            result = report(folder)
    else:
        result = report(args.source)
    if args.json == "-":
        json.dump(result, sys.stdout, indent=2)
        print()
        return
    _print_table(result)
    if args.json:
        write_json(args.json, result)


def _print_table(result: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    height, width = result["frame_size"]
    table = Table(title=f"{result['recipe']}: CPU time per {height}x{width} frame, one core")
    table.add_column("stage")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    total = result["seconds_per_frame"]
    for stage, seconds in result["stages"].items():
        table.add_row(stage, f"{1e3 * seconds:.1f}", f"{seconds / total:.0%}")
    table.add_section()
    table.add_row("all", f"{1e3 * total:.1f}", "100%")
    console = Console()
    console.print(table)
    console.print(
        f"mean of {result['num_clips']} clips of {result['num_frames']} frames; slowest clip "
        f"{1e3 * result['slowest_clip_seconds_per_frame']:.1f} ms a frame\n"
        f"cores needed for one accelerator, at {result['batch_size']} x {result['num_frames']} frames per step "
        f"of {result['seconds_per_step']:g} s: {result['cores_per_accelerator']}\n"
        f"a clip is {result['element_bytes'] / 2**20:.0f} MiB; peak memory of this process "
        f"{result['peak_host_bytes'] / 2**30:.1f} GiB"
    )
