"""Train a light decoder on the latents that a checkpoint's network restores, or resume.

  star-jax train-decoder --config configs/tiny_star_decoder.py --workdir DIR --config.model.checkpoint=CHECKPOINT

First the clips are made in DIR/clips, once: ground truth, low resolution, and the latents that the network
restores. When all steps are done, DIR/checkpoint is CHECKPOINT with the decoder, for `star-jax upscale --decoder
tiny --fidelity X`.
"""

import argparse

from star_jax.launch.experiment import add_run_arguments

HELP = "train a light decoder, or resume"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from star_jax.launch.experiment import read_experiment, report_end
    from star_jax.parallel.processes import log_to
    from star_jax.train.decoder.config import DecoderExperimentConfig

    config = read_experiment(args, DecoderExperimentConfig)
    log_to(args.workdir)

    from star_jax.train.decoder.run import train_decoder

    outcome, checkpoint = train_decoder(
        config, args.workdir, allow_changed_config=args.allow_changed_config, quiet=args.quiet
    )
    return report_end(outcome, config.train.num_steps, f"wrote {checkpoint}")
