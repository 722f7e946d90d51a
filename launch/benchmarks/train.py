"""Measure the speed and memory of the training step.

  star-jax benchmark train --config configs/star_i2vgenxl.py --json train.json
  star-jax benchmark train --config configs/tiny.py --config.train.batch_size=4

Weights and clips are made up on the device: no checkpoint and no data are needed (the networks' sizes come from the
checkpoint if it exists, else from the preset). Compilation is timed separately; then come a warm-up step and
--repeats steps, whose median is reported. MFU counts the networks' own operations, without the recomputation of
remat.
"""

import argparse
import dataclasses
from pathlib import Path

HELP = "measure the training step: seconds, FLOPs, MFU, memory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from star_jax.launch.experiment import add_config_arguments

    add_config_arguments(parser)
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="measured steps (default 5)")
    parser.add_argument(
        "--peak-tflops", type=float, metavar="X", help="peak of one device, instead of the table's"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the report to this file")


def run(args: argparse.Namespace) -> None:
    from star_jax.benchmark.report import describe_run
    from star_jax.benchmark.training import measure_training
    from star_jax.checkpoints.directory import CONFIG_FILE
    from star_jax.files import check_report_path, write_json
    from star_jax.launch.benchmarks.table import print_rows
    from star_jax.launch.experiment import read_experiment
    from star_jax.train.star.objective import StarObjective

    if args.json:
        check_report_path(args.json, ".json")
    config = read_experiment(args)
    # Made-up clips have the same shapes as real ones.
    clips = dataclasses.replace(config.data, source="synthetic:1")
    steps_only = dataclasses.replace(config.train, validate_every_steps=0)
    is_there = config.model.checkpoint is not None and (Path(config.model.checkpoint) / CONFIG_FILE).is_file()
    model = config.model if is_there else dataclasses.replace(config.model, checkpoint=None)
    objective = StarObjective(model, config.diffusion, clips, steps_only)
    report = measure_training(objective, config, repeats=args.repeats, device_peak=args.peak_tflops)
    print_rows([report])
    if args.json:
        write_json(args.json, report | describe_run())
