"""Merge a file of low-rank updates (LoRA) into a checkpoint.

  star-jax assemble runs/guidance updates.safetensors
  star-jax merge-lora checkpoints/star updates.safetensors checkpoints/star-unguided
  star-jax upscale clip.mp4 -o out.mp4 --checkpoint checkpoints/star-unguided

The file has PyTorch's names and axes (lora_A, lora_B), with diffusers' names of modules. DST appears when it is
complete, and has the same sampling settings as DIR.
"""

import argparse

from star_jax.launch.interrupts import terminable

HELP = "merge low-rank updates into a checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="DIR", help="checkpoint that the updates belong to")
    parser.add_argument("updates", metavar="FILE", help=".safetensors that star-jax assemble wrote")
    parser.add_argument("destination", metavar="DST", help="checkpoint directory to make")
    parser.add_argument(
        "--strength", type=float, default=1.0, metavar="X", help="factor of the updates (default 1)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="dtype of all weights (default: as they are)",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing checkpoint directory")


def run(args: argparse.Namespace) -> None:
    from star_jax.train.star.merge import merge_lora_file

    with terminable():
        count = merge_lora_file(
            args.checkpoint,
            args.updates,
            args.destination,
            strength=args.strength,
            dtype=args.dtype,
            force=args.force,
        )
    print(f"{args.destination}: {count:,} kernels updated")
