"""Upscale videos.

  star-jax upscale clip.mp4 -o clip_x4.mp4                                  # with the small model in the package
  star-jax upscale clip.mp4 -o clip_x4.mp4 --checkpoint DIR
  star-jax upscale clip.mp4 -o try.mp4 --checkpoint DIR --start 1:30 --frames 24
  star-jax upscale clip.mp4 -o out.mkv --checkpoint DIR --prompt "a panda plays a guitar" --steps 30 --seed 7
  star-jax upscale low.mp4 -o out.mp4 --compare truth.mp4                   # and a picture beside it, out.png
  star-jax upscale *.mp4 -o results/ --checkpoint DIR --resolution 1080 --skip-existing
  star-jax upscale films/ --recursive -o "results/{folder}/{name}_x4.mkv" --checkpoint DIR

The output keeps the input's frame rate, number of frames, sound and subtitles. It appears under its name only when
it is complete. The same command resumes a run that was interrupted or killed. With several inputs, a failure is
reported, and the run continues with the others.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from star_jax.errors import InputError
from star_jax.launch.buckets import with_buckets
from star_jax.launch.interrupts import terminable
from star_jax.launch.upscale_arguments import add_arguments

__all__ = ["HELP", "add_arguments", "run"]

HELP = "upscale videos with a checkpoint"


@terminable()
@with_buckets(reads=("inputs", "compare"), writes=("output", "report"))
def run(args: argparse.Namespace) -> int:
    """Upscales, then writes the comparison with the ground truth and the report, if requested."""
    import star_jax
    from star_jax.files import check_report_path

    _refuse_text_options(args)
    if not 0 <= args.crf <= 51:
        raise InputError(f"--crf is {args.crf}; choose 0 (lossless) to 51")
    if args.compare and (args.start is not None or args.frames is not None):  # its picture reads whole clips
        raise InputError(
            "--compare needs whole clips; leave out --start and --frames, or cut both clips first"
        )
    if args.report:
        check_report_path(args.report, ".html")
    summary = star_jax.upscale(
        args.inputs,
        args.output,
        checkpoint=args.checkpoint,
        resolution=args.resolution,
        frame_rate=args.frame_rate,
        start=args.start,
        frames=args.frames,
        scene_cuts=args.scene_cuts,
        recursive=args.recursive,
        skip_existing=args.skip_existing,
        overwrite=args.overwrite,
        resume=not args.no_resume,
        truth=args.compare,
        color_source=args.color_source,
        dtype=args.dtype,
        attention=args.attention,
        vae_dtype=args.vae_dtype,
        max_memory=args.max_memory,
        compile_cache=args.compile_cache,
        crf=args.crf,
        preset=args.preset,
        codec=args.codec,
        pixel_format=args.pixel_format,
        bit_depth=args.bit_depth,
        strict=args.strict,
        deinterlace=args.deinterlace,
        progress="none" if args.quiet else args.progress,
        **_settings(args),
    )
    for line in summary.failures():
        print(f"star-jax upscale: {line}", file=sys.stderr)
    if args.compare and summary.of("done"):
        _write_comparison(summary.of("done")[0].job, args.compare)
    if args.report:
        _write_report(args, summary)
    return summary.exit_code


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the user gave; others come from the checkpoint, or are defaults."""
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
        "decoder": args.decoder,
        "fidelity": args.fidelity,
        "decode_overlap": args.decode_overlap,
        "tile": args.tile and parse_size(args.tile),
        "vae_tile": args.vae_tile and parse_size(args.vae_tile),
    }
    return {name: value for name, value in settings.items() if value is not None}


def _refuse_text_options(args: argparse.Namespace) -> None:
    """Rejects text options for a model that reads no text, and would ignore them.

    Raises:
      InputError: such an option was given.
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


def _write_comparison(job, truth: str) -> None:
    """Writes the middle frame as a picture beside the output: enlarged input | output | ground truth."""
    from star_jax.evaluation.clips import pair_clips
    from star_jax.evaluation.picture import comparison
    from star_jax.evaluation.views import panels
    from star_jax.files import write_png

    (pair,) = pair_clips(job.output, Path(truth), Path(job.info.path))
    picture = job.output.with_suffix(".png")
    write_png(picture, comparison(panels({"output": pair}, job.num_frames // 2, "bicubic")))
    print(picture)


def _write_report(args: argparse.Namespace, summary) -> None:
    from star_jax.evaluation.run_report import report_run

    run = {name: getattr(args, name) for name in ("checkpoint", "dtype", "vae_dtype", "attention")}
    report_run(
        summary, args.report, truth=args.compare, run=run, progress=not args.quiet and args.progress == "auto"
    )
    if not args.quiet and args.progress == "auto":
        print(args.report)
