"""Train STAR: the ControlNet and LIEM, from a converted checkpoint.

  star-jax train --config configs/star_i2vgenxl.py --workdir DIR --config.model.checkpoint=CHECKPOINT \\
      --config.data.source=CLIPS
  star-jax train --config configs/tiny.py --workdir DIR
  star-jax train --config configs/ablations.py:df_off --workdir DIR --config.train.num_steps=1000

The same command resumes: it goes on from the newest checkpoint of DIR, exactly where it was. SIGTERM saves and ends
with exit code 143. `star-jax assemble` makes a checkpoint to upscale with. On several machines, every process runs
the same command: see docs/multihost.md.
"""

import argparse
import os

HELP = "train from a checkpoint, or resume"
_EXIT_SIGTERM = 143


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from star_jax.launch.config_arguments import add_config_arguments
    from star_jax.parallel import processes as distributed

    add_config_arguments(parser)
    distributed.add_arguments(parser)
    parser.add_argument(
        "--workdir",
        required=True,
        metavar="DIR",
        help="checkpoints, metrics and pictures; a path or gs://...",
    )
    parser.add_argument(
        "--allow-changed-config",
        action="store_true",
        help="resume although DIR was begun with other values; they are recorded",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    from star_jax.launch.config_arguments import read_experiment
    from star_jax.parallel import processes as distributed

    config = read_experiment(args)
    distributed.initialize(args)
    distributed.log_to(args.workdir)

    from star_jax.parallel.mesh import make_mesh
    from star_jax.train.loop import train
    from star_jax.train.star.objective import StarObjective

    make_mesh(config.mesh)  # refused before weights are drawn
    config = _with_checkpoint(config, args.workdir)
    objective = StarObjective(config.model, config.diffusion, config.data, config.train)
    outcome = train(
        objective,
        config,
        args.workdir,
        flops_per_step=_step_flops(objective, config.train.batch_size),
        allow_changed_config=args.allow_changed_config,
        quiet=args.quiet,
    )
    if outcome.finished:
        print(f"step {outcome.step} of {config.train.num_steps}: done; {args.workdir} is complete")
        return 0
    print(f"stopped by SIGTERM, saved at step {outcome.step}; the same command resumes")
    return _EXIT_SIGTERM


def _step_flops(objective, batch_size: int) -> float | None:
    """Operations of an update, for MFU; counting takes a while, so only where the device's peak is known."""
    from star_jax.parallel.peaks import device_peak_tflops
    from star_jax.train.operations import step_flops

    return None if device_peak_tflops() is None else step_flops(objective, batch_size)


def _with_checkpoint(config, workdir: str):
    """The configuration with a checkpoint of fresh weights where it names none."""
    import dataclasses

    from star_jax.errors import InputError
    from star_jax.init.checkpoint import fresh_checkpoint
    from star_jax.train.workdir import absolute, has_checkpoint

    if config.model.checkpoint is not None:
        return config
    if "://" in workdir:
        raise InputError(f"a run from random weights needs --workdir on a disk, not {workdir}")
    target = os.path.join(os.path.abspath(workdir), "initial")
    directory = fresh_checkpoint(
        target,
        config.model.star_config(),
        config.train.seed,
        vae=config.model.vae_checkpoint,
        renew=not has_checkpoint(absolute(workdir)),
    )
    model = dataclasses.replace(config.model, checkpoint=os.fspath(directory))
    return dataclasses.replace(config, model=model)
