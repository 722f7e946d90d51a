"""Upscale videos.

  star-jax upscale clip.mp4 -o clip_x4.mp4                                     # with the small model in the package
  star-jax upscale clip.mp4 -o clip_x4.mp4 --checkpoint DIR
  star-jax upscale low.mp4 -o out.mp4 --compare truth.mp4                      # and a picture beside it, out.png
  star-jax upscale clip.mp4 -o out.mkv --checkpoint DIR --prompt "a panda plays a guitar" --steps 30 --seed 7
  star-jax upscale *.mp4 -o results/ --checkpoint DIR --resolution 1080 --skip-existing

The output keeps the input's frame rate, number of frames, sound and subtitles. It appears under its name only when
it is complete.
"""

import argparse
from fractions import Fraction
from pathlib import Path
from typing import Any

from star_jax.errors import InputError
from star_jax.launch.interrupts import terminable
from star_jax.presets import BUNDLED

HELP = "upscale videos with a checkpoint"
X264_PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="IN", help="videos, images, or folders of images")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help=".mp4, .mov or .mkv, folder/%%05d.png for images, .png for a single one; or a folder, for several IN",
    )
    parser.add_argument(
        "--checkpoint",
        default=BUNDLED,
        metavar="DIR",
        help="directory made by star-jax convert or assemble (default: tiny-star, a small model in the package)",
    )
    parser.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave inputs alone whose output is there: goes on with a batch that was interrupted",
    )
    parser.add_argument(
        "--compare",
        metavar="GT",
        help="ground truth of a single IN: writes OUT.png beside OUT, input enlarged | output | ground truth",
    )
    picture = parser.add_argument_group("picture")
    size = picture.add_mutually_exclusive_group()
    size.add_argument("--scale", type=float, default=4.0, help="output size / input size (default 4)")
    size.add_argument(
        "--resolution",
        type=int,
        metavar="PIXELS",
        help="of the output's shorter side, such as 1080, in place of --scale; never less than the input's",
    )
    picture.add_argument(
        "--strength",
        type=float,
        default=1.0,
        metavar="X",
        help="share of the result, the rest is the enlarged input: below 1 against over-sharp pictures (default 1)",
    )
    picture.add_argument(
        "--color-fix", metavar="NAME", help="adain, wavelet or none (default: the checkpoint's, else adain)"
    )
    picture.add_argument(
        "--padding",
        default="fit",
        metavar="NAME",
        help="fit (default: repeats the border to the next size the network takes) or original (white, at least "
        "720x1280)",
    )
    picture.add_argument(
        "--frame-rate",
        type=_frame_rate,
        metavar="FPS",
        help="of folders of images, such as 25 or 30000/1001 (default 24); a video keeps its own",
    )
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--prompt", default="", metavar="TEXT", help="what the clip shows")
    sampling.add_argument("--negative-prompt", default=None, metavar="TEXT", help="what to steer away from")
    sampling.add_argument(
        "--steps", type=int, metavar="N", help="denoising steps (default: the checkpoint's, else 15)"
    )
    sampling.add_argument(
        "--spacing",
        default="auto",
        metavar="NAME",
        help="fast (4 coarse + 11 fine steps), normal (evenly), auto (default: fast for 15 steps)",
    )
    sampling.add_argument(
        "--solver", default="dpmpp_2m_sde", metavar="NAME", help="dpmpp_2m_sde (default) or heun"
    )
    sampling.add_argument(
        "--guidance", type=float, metavar="X", help="guidance scale (default: the checkpoint's, else 7.5)"
    )
    sampling.add_argument("--seed", type=int, default=0, help="of all noise (default 0)")
    sampling.add_argument(
        "--decode-overlap",
        type=int,
        metavar="FRAMES",
        help="frames decoded more on each side of a group (default: the checkpoint's, or 0; 1 flickers less)",
    )
    sampling.add_argument(
        "--window",
        type=int,
        default=32,
        metavar="FRAMES",
        help="frames denoised at once, longer clips in half-overlapping windows (default 32)",
    )
    device = parser.add_argument_group("device")
    device.add_argument(
        "--dtype", default="auto", help="float32, bfloat16, float16, auto (default: float32 on a CPU only)"
    )
    device.add_argument(
        "--attention", default="auto", metavar="NAME", help="auto, xla, chunked, cudnn or splash"
    )
    device.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="such as 12GiB: work on tiles and windows that fit (default: what the device has)",
    )
    device.add_argument(
        "--tile", metavar="HxW", help="denoise tiles of this size in pixels (default: the largest that fit)"
    )
    device.add_argument("--vae-tile", metavar="HxW", help="the same for encoding and decoding")
    device.add_argument(
        "--compile-cache",
        metavar="DIR",
        help="where compiled programs are kept (default ~/.cache/star_jax); '' keeps none",
    )
    file = parser.add_argument_group("file")
    file.add_argument("--crf", type=float, default=17, help="H.264 quality, 0 (lossless) to 51 (default 17)")
    file.add_argument(
        "--preset", default="medium", choices=X264_PRESETS, help="H.264 effort (default medium)"
    )
    file.add_argument("--quiet", action="store_true", help="no progress bars")


@terminable()
def run(args: argparse.Namespace) -> None:
    """Upscales, then writes the picture that compares the result with the ground truth."""
    import star_jax

    _refuse_text_options(args)
    if not 0 <= args.crf <= 51:
        raise InputError(f"--crf is {args.crf}; choose 0 (lossless) to 51")
    jobs = star_jax.upscale(
        args.inputs,
        args.output,
        checkpoint=args.checkpoint,
        resolution=args.resolution,
        frame_rate=args.frame_rate,
        skip_existing=args.skip_existing,
        truth=args.compare,
        dtype=args.dtype,
        attention=args.attention,
        max_memory=args.max_memory,
        compile_cache=args.compile_cache,
        crf=args.crf,
        preset=args.preset,
        quiet=args.quiet,
        **_settings(args),
    )
    if args.compare and jobs:
        _write_comparison(jobs[0].reader, jobs[0].output, args.compare)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were asked for; the others are the checkpoint's, or the defaults."""
    from star_jax.launch.data_arguments import parse_size

    settings = {
        "prompt": args.prompt,
        "negative_prompt": args.negative_prompt,
        "num_inference_steps": args.steps,
        "guidance_scale": args.guidance,
        "spacing": args.spacing,
        "solver": args.solver,
        "seed": args.seed,
        "scale": args.scale,
        "strength": args.strength,
        "color_fix": args.color_fix,
        "padding": args.padding,
        "window": args.window,
        "decode_overlap": args.decode_overlap,
        "tile": args.tile and parse_size(args.tile),
        "vae_tile": args.vae_tile and parse_size(args.vae_tile),
    }
    return {name: value for name, value in settings.items() if value is not None}


def _frame_rate(text: str) -> Fraction:
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is no frame rate; write it like 25 or 30000/1001")
    return rate


def _refuse_text_options(args: argparse.Namespace) -> None:
    """Refuses options about text for a model that reads none, which would ignore them.

    Raises:
      InputError: one was given.
    """
    from star_jax.checkpoints.directory import read_config
    from star_jax.models.architectures import build_model

    if build_model(read_config(args.checkpoint)).has_text:
        return
    given = {
        "--prompt": bool(args.prompt),
        "--negative-prompt": args.negative_prompt is not None,
        "--guidance": args.guidance not in (None, 1),
    }
    if options := [name for name, was_given in given.items() if was_given]:
        raise InputError(f"{args.checkpoint} reads no text; leave out {', '.join(options)}")


def _write_comparison(reader, output: Path, truth: str) -> None:
    """The middle frame as a picture beside the output: input enlarged | output | ground truth."""
    from star_jax.evaluation.clips import pair_clips
    from star_jax.evaluation.picture import comparison
    from star_jax.evaluation.scoring import panels
    from star_jax.files import write_png

    (pair,) = pair_clips(output, Path(truth), Path(reader.info.path))
    picture = output.with_suffix(".png")
    write_png(picture, comparison(panels(pair, reader.info.num_frames // 2)))
    print(picture)
