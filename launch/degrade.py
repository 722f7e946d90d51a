"""Degrade a video as training data is degraded, to look at.

  star-jax degrade clip.mp4 -o low.mp4 --recipe heavy --seed 1
  star-jax degrade clip.mp4 -o both.mp4 --compare

One draw of the recipe for the whole clip; another seed gives another draw.
"""

import argparse

from star_jax.errors import InputError

HELP = "degrade a video with a training recipe"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="video file")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="video file to write")
    parser.add_argument(
        "--recipe",
        default="realbasicvsr",
        metavar="NAME",
        help="realbasicvsr (default), star, light, heavy or none",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    parser.add_argument("--scale", type=int, default=4, help="input size / output size (default 4)")
    parser.add_argument("--start", type=int, default=0, metavar="FRAME", help="first frame (default 0)")
    parser.add_argument(
        "--frames",
        type=int,
        default=128,
        metavar="N",
        help="at most so many frames; all are held in memory (default 128)",
    )
    parser.add_argument(
        "--compare", action="store_true", help="write the input and the enlarged result side by side"
    )
    parser.add_argument(
        "--crf", type=float, default=10, help="H.264 quality of the output, 0 to 51 (default 10)"
    )


def run(args: argparse.Namespace) -> None:
    import cv2
    import numpy as np

    from star_jax.data.degradations import degrade, get_recipe
    from star_jax.video.reader import VideoReader
    from star_jax.video.writer import VideoWriter, check_output_path

    if args.seed < 0 or args.scale < 1 or args.frames < 1 or args.start < 0:
        raise InputError("--seed and --start must not be negative, --scale and --frames at least 1")
    recipe = get_recipe(args.recipe, scale=args.scale)
    reader = VideoReader(args.input)
    check_output_path(args.output, reader.info)
    count = min(args.frames, reader.info.num_frames - args.start)
    if count < 1:
        raise InputError(f"{args.input} has {reader.info.num_frames} frames; --start is {args.start}")
    height, width = (size - size % args.scale for size in (reader.info.height, reader.info.width))
    if not height or not width:
        raise InputError(
            f"{args.input} is {reader.info.height}x{reader.info.width}, too small for --scale {args.scale}"
        )
    frames = np.ascontiguousarray(reader.read(args.start, count)[:, :height, :width])
    truth, low = degrade(frames, recipe, args.seed)
    if args.compare:
        enlarged = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_NEAREST) for frame in low]
        low = np.concatenate([truth, np.stack(enlarged)], axis=2)
    size = {"height": low.shape[1], "width": low.shape[2]}
    with VideoWriter(args.output, **size, frame_rate=reader.info.frame_rate, crf=args.crf) as writer:
        writer.write(low)
    print(
        f"wrote {args.output}: {count} frames of {size['width']}x{size['height']}, {args.recipe}, seed {args.seed}"
    )
