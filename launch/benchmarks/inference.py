"""Measure the speed and memory of inference.

  star-jax benchmark inference --preset i2vgen-xl --frames 32 --height 720 --width 1280 --json unet.json
  star-jax benchmark inference --component pipeline --checkpoint DIR --frames 33 --json clip.json
  star-jax benchmark inference --published --json published.json
  star-jax benchmark inference --preset tiny --sweep frames --json sweep.json --plot sweep.png

Weights are random unless a checkpoint is given. Compilation is timed separately; then come a warm-up step and
--repeats steps, whose median is reported. MFU is the share of the device's peak (--peak-tflops, or a table by
device) that the networks' own operations use. --count-only runs nothing and prints the operations.
"""

import argparse

HELP = "measure networks or the whole pipeline: seconds, FLOPs, MFU, memory"

# Frames, height and width of the timings published for the original.
PUBLISHED = ((33, 720, 1280), (101, 768, 1408))
SWEEPS = ("frames", "pixels")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_measurement(parser.add_argument_group("what to measure"))
    _add_settings(parser.add_argument_group("how to measure"))


def _add_measurement(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--component",
        default="network",
        metavar="NAME",
        help="network (default: one evaluation; also by the name of its first part, such as unet), vae-encode, "
        "vae-decode, text or pipeline",
    )
    group.add_argument(
        "--preset", default="i2vgen-xl", metavar="NAME", help="sizes, with random weights (default i2vgen-xl)"
    )
    group.add_argument("--checkpoint", metavar="DIR", help="weights and sizes made by star-jax convert")
    group.add_argument("--frames", type=int, default=32, metavar="N", help="number of frames (default 32)")
    group.add_argument(
        "--height", type=int, default=720, metavar="PX", help="height of the result (default 720)"
    )
    group.add_argument(
        "--width", type=int, default=1280, metavar="PX", help="width of the result (default 1280)"
    )
    group.add_argument(
        "--steps", type=int, default=15, metavar="N", help="number of the pipeline's steps (default 15)"
    )
    group.add_argument(
        "--batch",
        type=int,
        default=1,
        metavar="N",
        help="batch size of the network; guidance runs 2 (default 1)",
    )
    group.add_argument(
        "--published",
        action="store_true",
        help="the pipeline at the sizes of published timings: 33 x 720x1280 and 101 x 768x1408",
    )
    group.add_argument(
        "--sweep", choices=SWEEPS, help="measure at 1/8, 1/4, 1/2 and all of the frames, or of the pixels"
    )


def _add_settings(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--dtype", default="auto", help="float32, bfloat16, float16, auto (default: float32 on a CPU only)"
    )
    group.add_argument(
        "--vae-dtype",
        default="auto",
        help="dtype of the autoencoder (default: float32; decoding on a GPU float16)",
    )
    group.add_argument(
        "--attention", default="auto", metavar="NAME", help="auto, xla, chunked, cudnn or splash"
    )
    group.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="memory limit of the pipeline, such as 20GiB (default: all that the device has)",
    )
    group.add_argument(
        "--mesh",
        metavar="AXES",
        help="devices by axis, such as data=2,context=4: all devices (default: one device)",
    )
    group.add_argument("--repeats", type=int, default=5, metavar="N", help="measured steps (default 5)")
    group.add_argument(
        "--peak-tflops", type=float, metavar="X", help="peak of one device, instead of the table's"
    )
    group.add_argument("--count-only", action="store_true", help="run nothing; count the operations")
    group.add_argument("--json", metavar="FILE", help="also write the report to this file")
    group.add_argument("--plot", metavar="FILE.png", help="draw a sweep (needs the extra `plots`)")


def run(args: argparse.Namespace) -> None:
    from star_jax.benchmark.inference import InferenceBenchmark, count_inference, measure_inference
    from star_jax.benchmark.plot import plot_sweep
    from star_jax.benchmark.report import describe_run
    from star_jax.errors import InputError
    from star_jax.evaluation.report.plots import require_matplotlib
    from star_jax.files import check_report_path, parse_bytes, write_json
    from star_jax.launch.benchmarks.table import print_rows

    if args.plot and not args.sweep:
        raise InputError("--plot draws a sweep; add --sweep frames or --sweep pixels")
    for path, suffix in ((args.json, ".json"), (args.plot, ".png")):
        if path:
            check_report_path(path, suffix)
    if args.plot:
        require_matplotlib()
    measure = count_inference if args.count_only else measure_inference
    sizes = _sizes(args)
    benchmarks = [
        InferenceBenchmark(
            component="pipeline" if args.published else args.component,
            preset=args.preset,
            checkpoint=args.checkpoint,
            frames=frames,
            height=height,
            width=width,
            steps=args.steps,
            batch=args.batch,
            dtype=args.dtype,
            vae_dtype=args.vae_dtype,
            attention=args.attention,
            max_memory=args.max_memory and parse_bytes(args.max_memory, "--max-memory"),
            mesh=args.mesh,
            repeats=args.repeats,
            device_peak=args.peak_tflops,
        )
        for frames, height, width in sizes
    ]
    rows = []
    for benchmark in benchmarks:
        rows.append(measure(benchmark))
        print_rows(rows[-1:])
    report = rows[0] if len(rows) == 1 else {"rows": rows}
    if args.json:
        write_json(args.json, report | describe_run())
    if args.plot:
        plot_sweep(args.plot, rows, args.sweep)


def _sizes(args: argparse.Namespace) -> list[tuple[int, int, int]]:
    """(frames, height, width) of each measurement."""
    if args.published:
        return list(PUBLISHED)
    frames, height, width = args.frames, args.height, args.width
    if args.sweep == "frames":
        return sorted({(max(1, frames // part), height, width) for part in (8, 4, 2, 1)})
    if args.sweep == "pixels":
        shrinks = [part**-0.5 for part in (8, 4, 2, 1)]
        return sorted({(frames, max(1, round(height * s)), max(1, round(width * s))) for s in shrinks})
    return [(frames, height, width)]
