"""Export a checkpoint directory to the files of the original code.

  star-jax export DIR star.pt
  star-jax export DIR star.safetensors --dtype float16
  star-jax export DIR vae/ --layout svd-vae
  star-jax export DIR unet.safetensors --layout diffusers-i2vgen-xl --base original.safetensors

The file has the original's keys in the original's order; it appears when it is complete.
"""

import argparse

from star_jax.launch.buckets import with_buckets
from star_jax.launch.interrupts import terminable

HELP = "export a checkpoint directory to .safetensors or .pt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="DIR", help="checkpoint directory")
    parser.add_argument(
        "destination", metavar="DST", help=".safetensors or .pt; a folder for svd-vae and clip"
    )
    parser.add_argument(
        "--layout", default="star", help="family whose keys are written (see convert --format)"
    )
    parser.add_argument("--base", metavar="FILE", help="original file, for weights that STAR does not have")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="dtype of the exported weights (default: as stored)",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


@with_buckets(writes=("destination",))
def run(args: argparse.Namespace) -> None:
    from star_jax.convert.exporter import export_checkpoint

    with terminable():
        done = export_checkpoint(
            args.checkpoint,
            args.destination,
            layout=args.layout,
            dtype=args.dtype,
            base=args.base,
            force=args.force,
            quiet=args.quiet,
        )
    print(
        f"{args.destination}: {done['tensors']} tensors, {done['bytes'] / 1e6:,.1f} MB, layout {args.layout}"
    )
    if left_out := done["left_out"]:
        first = ", ".join(left_out[:3])
        print(f"left out: {len(left_out)} leaves that {args.layout} cannot hold ({first}, ...)")
