"""Train the autoencoder of a small model from scratch, or resume.

  star-jax train-vae --config configs/tiny_star_vae.py --workdir DIR

When all steps are done, DIR/checkpoint is a complete checkpoint directory from which `star-jax train` can start:
the trained autoencoder (its moving average) with the latents' measured scale, and a fresh UNet and ControlNet.
"""

import argparse

from star_jax.launch.experiment import add_run_arguments

HELP = "train a small autoencoder, or resume"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from star_jax.launch.experiment import read_experiment, report_end
    from star_jax.parallel.processes import log_to
    from star_jax.train.autoencoder.config import VaeExperimentConfig

    config = read_experiment(args, VaeExperimentConfig)
    log_to(args.workdir)

    from star_jax.train.autoencoder.run import train_autoencoder

    outcome, checkpoint = train_autoencoder(
        config, args.workdir, allow_changed_config=args.allow_changed_config, quiet=args.quiet
    )
    return report_end(outcome, config.train.num_steps, f"wrote {checkpoint}")
