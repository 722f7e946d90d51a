"""Upscale videos.

  star-jax upscale clip.mp4 -o clip_x4.mp4 --checkpoint DIR
  star-jax upscale clip.mp4 -o out.mkv --checkpoint DIR --prompt "a panda plays a guitar" --steps 30 --seed 7
  star-jax upscale *.mp4 -o results/ --checkpoint DIR

The output keeps the input's frame rate, number of frames, sound and subtitles. It appears under its name only when
it is complete.
"""

import argparse
import contextlib
import sys
from pathlib import Path

from star_jax.errors import InputError

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

STAGES = {"encode": ("Encoding", "frames"), "sample": ("Sampling", "steps"), "decode": ("Decoding", "frames")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="IN", help="video files")
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="output file, or a folder for several"
    )
    parser.add_argument(
        "--checkpoint", required=True, metavar="DIR", help="directory made by star-jax convert"
    )
    picture = parser.add_argument_group("picture")
    picture.add_argument("--scale", type=float, default=4.0, help="output size / input size (default 4)")
    picture.add_argument(
        "--color-fix", default="adain", metavar="NAME", help="adain (default), wavelet or none"
    )
    picture.add_argument(
        "--padding",
        default="fit",
        metavar="NAME",
        help="fit (default: repeats the border to the next size the network takes) or original (white, at least "
        "720x1280)",
    )
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--prompt", default="", metavar="TEXT", help="what the clip shows")
    sampling.add_argument("--negative-prompt", default=None, metavar="TEXT", help="what to steer away from")
    sampling.add_argument("--steps", type=int, default=15, metavar="N", help="denoising steps (default 15)")
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
        "--guidance", type=float, default=7.5, metavar="X", help="guidance scale (default 7.5)"
    )
    sampling.add_argument("--seed", type=int, default=0, help="of all noise (default 0)")
    sampling.add_argument(
        "--decode-overlap",
        type=int,
        default=0,
        metavar="FRAMES",
        help="frames decoded more on either side of each three (default 0, as the original; 1 flickers less)",
    )
    sampling.add_argument(
        "--window", type=int, default=32, metavar="FRAMES", help="frames at once (default 32)"
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
        default="~/.cache/star_jax",
        metavar="DIR",
        help="where compiled programs are kept (default ~/.cache/star_jax); '' keeps none",
    )
    file = parser.add_argument_group("file")
    file.add_argument("--crf", type=float, default=17, help="H.264 quality, 0 (lossless) to 51 (default 17)")
    file.add_argument(
        "--preset", default="medium", choices=X264_PRESETS, help="H.264 effort (default medium)"
    )
    file.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> None:
    """Checks everything that can be checked, loads the model, upscales one input after the other."""
    from star_jax.checkpoint import read_config
    from star_jax.compile_cache import use_compile_cache
    from star_jax.launch.data_arguments import parse_size
    from star_jax.memory import parse_memory, plan_memory
    from star_jax.settings import NEGATIVE_PROMPT, UpscaleSettings
    from star_jax.video.images import open_source
    from star_jax.video.outputs import check_output_path

    settings = UpscaleSettings(
        prompt=args.prompt,
        negative_prompt=NEGATIVE_PROMPT if args.negative_prompt is None else args.negative_prompt,
        num_inference_steps=args.steps,
        spacing=args.spacing,
        solver=args.solver,
        guidance_scale=args.guidance,
        seed=args.seed,
        scale=args.scale,
        window=args.window,
        color_fix=args.color_fix,
        padding=args.padding,
        tile=args.tile and parse_size(args.tile),
        vae_tile=args.vae_tile and parse_size(args.vae_tile),
        decode_overlap=args.decode_overlap,
    )
    budget = args.max_memory and parse_memory(args.max_memory)
    if not 0 <= args.crf <= 51:
        raise InputError(f"--crf is {args.crf}; choose 0 (lossless) to 51")
    outputs = output_paths(args.inputs, args.output)
    readers = [open_source(path) for path in args.inputs]
    for reader, output in zip(readers, outputs, strict=True):
        check_output_path(output, reader.info)

    from star_jax.pipeline import StarPipeline, resolve_dtype

    config, dtype = read_config(args.checkpoint), resolve_dtype(args.dtype)
    plans = [
        plan_memory(
            config,
            dtype,
            settings,
            reader.info.num_frames,
            (reader.info.height, reader.info.width),
            budget=budget,
        )
        for reader in readers
    ]
    use_compile_cache(args.compile_cache)
    pipeline = StarPipeline.from_pretrained(args.checkpoint, dtype=args.dtype, attention=args.attention)
    for reader, output, plan in zip(readers, outputs, plans, strict=True):
        _upscale_one(pipeline, reader, output, plan, args)


def output_paths(inputs: list[str], output: str) -> list[Path]:
    """One output file for one input; several inputs go into a folder, under their own names as .mp4.

    Raises:
      InputError: several inputs and no folder, or two inputs of the same name.
    """
    folder = Path(output)
    if len(inputs) == 1 and not folder.is_dir():
        return [folder]
    if not folder.is_dir():
        raise InputError(
            f"{output} is not a folder, but there are {len(inputs)} inputs; create the folder first"
        )
    # Resolved, because "." and ".." have no name to put a suffix on.
    names = [Path(path).resolve().with_suffix(".mp4").name for path in inputs]
    if len(set(names)) < len(names):
        raise InputError("two inputs have the same name; upscale them one by one")
    return [folder / name for name in names]


def _upscale_one(pipeline, reader, output: Path, plan, args: argparse.Namespace) -> None:
    from star_jax.upscale import upscale_video

    info, settings = reader.info, plan.settings
    height, width = settings.target_size(info.height, info.width)
    if not args.quiet:
        print(
            f"{info.path}: {info.num_frames} frames, {info.width}x{info.height} to {width}x{height}",
            file=sys.stderr,
        )
        print(plan.describe(), file=sys.stderr)
    with _StageBars(quiet=args.quiet) as on_progress:
        upscale_video(
            pipeline, reader, output, settings, crf=args.crf, preset=args.preset, on_progress=on_progress
        )
    if not args.quiet:
        print(output)


class _StageBars:
    """One progress bar after the other, as the pipeline goes from stage to stage."""

    def __init__(self, *, quiet: bool):
        self.quiet = quiet
        self.stage, self.done = None, 0
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> "_StageBars":
        return self

    def __exit__(self, *error) -> None:
        self.stack.__exit__(*error)

    def __call__(self, stage: str, done: int, total: int) -> None:
        from star_jax.progress import progress

        if stage != self.stage:
            self.stack.close()
            label, unit = STAGES[stage]
            self.bar = self.stack.enter_context(progress(label, total, unit, quiet=self.quiet))
            self.stage, self.done = stage, 0
        self.bar.advance(done - self.done)
        self.done = done
