"""Make a checkpoint to upscale with from a training run.

  star-jax assemble runs/star star-trained
  star-jax assemble runs/star star-10000 --step 10000 --no-ema
  star-jax assemble runs/lora updates.safetensors
  star-jax upscale clip.mp4 -o out.mp4 --checkpoint star-trained

The trained weights replace those of the checkpoint that the run started from (model.checkpoint). For a run with
model.lora_rank, DST may be a file for the low-rank updates alone. DST appears when it is complete.
"""

import argparse

HELP = "make a checkpoint from a training run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workdir", metavar="WORKDIR", help="work directory of star-jax train")
    parser.add_argument(
        "destination", metavar="DST", help="checkpoint directory to make, or FILE.safetensors"
    )
    parser.add_argument(
        "--step", type=int, metavar="N", help="step of the training checkpoint (default: the newest)"
    )
    parser.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        help="take the weights' moving average (default: if the run keeps one)",
    )
    parser.add_argument(
        "--base", metavar="DIR", help="checkpoint that the run started from, if it has moved since"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="dtype of all weights (default: float32 for trained weights, unchanged for the others)",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing checkpoint directory")


def run(args: argparse.Namespace) -> None:
    from star_jax.launch.interrupts import terminable
    from star_jax.train.star.assemble import assemble

    with terminable():
        done = assemble(
            args.workdir,
            args.destination,
            step=args.step,
            ema=args.ema,
            base=args.base,
            dtype=args.dtype,
            force=args.force,
        )
    which = "the moving average" if done.ema else "the weights"
    print(f"{args.destination}: {which} of step {done.step}, {done.trained:,} trained weights")
