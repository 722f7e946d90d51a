"""Train STAR: the ControlNet and LIEM, from a converted checkpoint.

  star-jax train --config configs/star_i2vgenxl.py --workdir DIR --config.model.checkpoint=CHECKPOINT \\
      --config.data.source=CLIPS
  star-jax train --config configs/tiny.py --workdir DIR --dry-run
  star-jax train --config configs/tiny.py --workdir DIR
  star-jax train --config configs/ablations.py:df_off --workdir DIR --config.train.num_steps=1000

The same command resumes from the newest checkpoint of DIR, exactly where it was. After SIGTERM, the run saves and
ends with exit code 143. `star-jax assemble` makes a checkpoint to upscale with. On several machines, every process
runs the same command; see docs/multihost.md.
"""

import argparse

from star_jax.launch.cluster_arguments import add_cluster_arguments, join_cluster
from star_jax.launch.experiment import add_run_arguments

HELP = "train from a checkpoint, or resume"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="take two trial steps and report data, shapes, memory and times; write nothing",
    )
    add_cluster_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from star_jax.launch.experiment import read_experiment, report_end
    from star_jax.parallel.processes import log_to

    config = read_experiment(args)
    join_cluster(args)

    import star_jax
    from star_jax.parallel.peers import ending_together

    if args.dry_run:
        from star_jax.train.run import rehearse

        with ending_together():
            print(rehearse(config, args.workdir))
        return 0
    with ending_together():
        log_to(args.workdir)
        outcome = star_jax.train(
            config, args.workdir, allow_changed_config=args.allow_changed_config, quiet=args.quiet
        )
    return report_end(outcome, config.train.num_steps, f"{args.workdir} is complete")
