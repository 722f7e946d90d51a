"""Degrade a video the way training data is degraded, to see what a recipe does.

  star-jax degrade clip.mp4 -o low.mp4 --recipe heavy --seed 1
  star-jax degrade clip.mp4 -o both.mp4 --compare
  star-jax degrade clip.mp4 -o low/%05d.png --frames 9999
  star-jax degrade clip.mp4 -o sheet.png

With folder/%05d.png the output is images, which are lossless (for measurements). With a single .png it is a contact
sheet: four frames under every recipe. IN may be a folder of images, or synthetic:N, the N-th made-up clip.
The recipe is drawn once for the whole clip; another seed gives another draw. Times, sound, pixel aspect ratio and
everything else but the picture are kept, cut to the chosen frames.
"""

import argparse
from pathlib import Path

from star_jax.errors import InputError
from star_jax.launch.buckets import with_buckets
from star_jax.launch.interrupts import terminable

HELP = "degrade a video with a training recipe"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="video file, folder of images, synthetic:N or scenes:N")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="video, folder/%%05d.png, or a .png for a contact sheet",
    )
    parser.add_argument(
        "--recipe",
        default="realbasicvsr",
        metavar="NAME",
        help="realbasicvsr (default), realbasicvsr-crops, star, light, heavy or none",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default 0)")
    parser.add_argument("--scale", type=int, default=4, help="input size / output size (default 4)")
    parser.add_argument("--start", type=int, default=0, metavar="FRAME", help="first frame (default 0)")
    parser.add_argument(
        "--frames",
        type=int,
        default=128,
        metavar="N",
        help="largest number of frames; all of them are held in memory (default 128)",
    )
    parser.add_argument(
        "--compare", action="store_true", help="write the input and the enlarged result side by side"
    )
    parser.add_argument(
        "--truth",
        metavar="OUT",
        help="also write the frames before degradation, cut to a multiple of --scale",
    )
    parser.add_argument(
        "--crf", type=float, default=10, help="H.264 quality of the output, 0 to 51 (default 10)"
    )


@terminable()
@with_buckets(reads=("input",), writes=("output", "truth"))
def run(args: argparse.Namespace) -> None:
    from star_jax.data.degradations import get_recipe
    from star_jax.video.outputs import is_pattern

    if args.seed < 0 or args.scale < 1 or args.frames < 1 or args.start < 0:
        raise InputError(
            "--seed and --start must not be negative, and --scale and --frames must be at least 1"
        )
    recipe = get_recipe(args.recipe, scale=args.scale)
    if args.output.lower().endswith(".png") and not is_pattern(Path(args.output)):
        _write_sheet(args)
    else:
        _write_video(args, recipe)


def _write_sheet(args: argparse.Namespace) -> None:
    from star_jax.data.contact_sheet import contact_sheet
    from star_jax.files import check_report_path, write_png
    from star_jax.video.outputs import check_not_read

    check_report_path(args.output, ".png")
    check_not_read([args.output], [args.input])
    frames, *_ = _read(args.input, args.start, min(args.frames, 16), multiple=16)
    if len(frames) < 8:
        raise InputError(
            f"{args.input} has {len(frames)} frames to show, but a contact sheet needs 8; give a longer clip"
        )
    sheet = contact_sheet(frames, args.seed)
    write_png(args.output, sheet)
    print(f"wrote {args.output}: {sheet.shape[1]}x{sheet.shape[0]}, every recipe, seed {args.seed}")


def _write_video(args: argparse.Namespace, recipe) -> None:
    import cv2
    import numpy as np

    from star_jax.data.degradations import degrade
    from star_jax.video.encoders import Quality
    from star_jax.video.images import open_target
    from star_jax.video.notes import note

    _check_outputs(args)
    frames, frame_rate, source, times = _read(args.input, args.start, args.frames, multiple=args.scale)
    truth, low = degrade(frames, recipe, args.seed)
    if source is not None and source.bit_depth > 8:
        note(
            f"{args.input}: recipes work with 8 bits, so {source.bit_depth} bits become 8; the colour tags are kept"
        )
    options = {
        "frame_rate": frame_rate,
        "source": source,
        "quality": Quality(crf=args.crf, codec="h264", bit_depth=8),
    }
    if args.truth:
        height, width = truth.shape[1:3]
        with open_target(args.truth, width=width, height=height, **options) as writer:
            writer.write(truth, times)
    if args.compare:
        size = truth.shape[2:0:-1]
        enlarged = [cv2.resize(frame, size, interpolation=cv2.INTER_NEAREST) for frame in low]
        low = np.concatenate([truth, np.stack(enlarged)], axis=2)
    height, width = low.shape[1:3]
    with open_target(args.output, width=width, height=height, **options) as writer:
        writer.write(low, times)
    print(f"wrote {args.output}: {len(low)} frames of {width}x{height}, {args.recipe}, seed {args.seed}")


def _check_outputs(args: argparse.Namespace) -> None:
    """Rejects outputs that cannot be written, or that would replace the input or each other."""
    from star_jax.video.outputs import check_not_read, check_output_path, is_pattern

    if args.truth and args.truth.lower().endswith(".png") and not is_pattern(Path(args.truth)):
        raise InputError(f"--truth {args.truth} is a single image; give a video, or folder/%05d.png")
    outputs = [check_output_path(path) for path in (args.output, args.truth) if path]
    check_not_read(outputs, [args.input])


def _read(location: str, start: int, count: int, *, multiple: int):
    """Reads a video, images, synthetic:N or scenes:N.

    Returns:
      Frames uint8 [F, H, W, 3], cropped to a multiple; their rate; properties of the file, or None; their times.
    """
    from fractions import Fraction

    import numpy as np

    from star_jax.data.made_up.synthetic import SyntheticVideo
    from star_jax.data.sources import held_out_scene
    from star_jax.video.images import open_source
    from star_jax.video.part import part_of

    kind, _, index = location.partition(":")
    if kind in ("synthetic", "scenes") and index.isdigit():
        made_up = SyntheticVideo(int(index)) if kind == "synthetic" else held_out_scene(int(index), 224, 288)
        read, num_frames, frame_rate = made_up.read, made_up.num_frames, Fraction(24)
        info, times = None, None
    else:
        video = open_source(location)
        read, num_frames, frame_rate = video.read, video.info.num_frames, video.info.frame_rate
        info, times = video.info, video.times()
    count = min(count, num_frames - start)
    if count < 1:
        raise InputError(
            f"--start is {start}, but {location} has only {num_frames} frames; choose an earlier one"
        )
    frames = read(start, count, 1)
    height, width = (size - size % multiple for size in frames.shape[1:3])
    if not height or not width:
        raise InputError(
            f"{location} is {frames.shape[1]}x{frames.shape[2]}, too small for --scale {multiple}"
        )
    source = part_of(info, times, start, start + count) if info and times else None
    return np.ascontiguousarray(frames[:, :height, :width]), frame_rate, source, (times or [])[start:][:count]
