"""Train the autoencoder of a small model from nothing, or resume.

  star-jax train-vae --config configs/tiny_star_vae.py --workdir DIR

When all steps are done, DIR/checkpoint is a whole checkpoint directory for `star-jax train` to start from: the
trained autoencoder (its moving average) with the latents' measured scale, and a fresh UNet and ControlNet.
"""

import argparse

HELP = "train a small autoencoder, or resume"
_EXIT_SIGTERM = 143


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from star_jax.launch.experiment import add_config_arguments

    add_config_arguments(parser)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="checkpoints, metrics and pictures")
    parser.add_argument(
        "--allow-changed-config", action="store_true", help="resume although DIR was begun with other values"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    from star_jax.launch.experiment import read_experiment
    from star_jax.parallel.processes import log_to
    from star_jax.train.autoencoder.config import VaeExperimentConfig
    from star_jax.train.autoencoder.objective import VaeObjective

    config = read_experiment(args, VaeExperimentConfig)

    from star_jax.train.autoencoder.checkpoint import write_vae_checkpoint
    from star_jax.train.loop import train

    log_to(args.workdir)
    objective = VaeObjective(config)
    outcome = train(
        objective, config, args.workdir, allow_changed_config=args.allow_changed_config, quiet=args.quiet
    )
    if not outcome.finished:
        print(f"stopped by SIGTERM, saved at step {outcome.step}; the same command resumes")
        return _EXIT_SIGTERM
    target = write_vae_checkpoint(objective, config, args.workdir)
    print(f"step {outcome.step} of {config.train.num_steps}: done; wrote {target}")
    return 0
