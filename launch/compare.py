"""Make a page that shows two videos side by side.

  star-jax compare before.mp4 after.mp4 -o page.html
  star-jax compare low.mp4 result.mp4 -o page.html --truth truth.mp4         # with scores

A and B are videos, images or folders of images with the same number of frames; A is shown in B's size. The page is
a single file that any browser opens without a network: both videos play in sync, the pointer moves the border
between them, and the wheel zooms.
"""

import argparse

from star_jax.launch.buckets import with_buckets
from star_jax.launch.interrupts import terminable

HELP = "make a page that shows two videos side by side"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", metavar="A", help="first video, such as the input")
    parser.add_argument("after", metavar="B", help="second video, such as the output")
    parser.add_argument("-o", "--output", required=True, metavar="PAGE.html", help="the page")
    parser.add_argument(
        "--truth", metavar="GT", help="ground truth of B's size, which is shown, too, and used for scores"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


@terminable()
@with_buckets(reads=("before", "after", "truth"), writes=("output",))
def run(args: argparse.Namespace) -> None:
    from star_jax.evaluation.before_after import compare

    compare(args.before, args.after, args.output, truth=args.truth, progress=not args.quiet)
    if not args.quiet:
        print(args.output)
