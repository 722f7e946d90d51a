"""Measure single layers, and the alternative forms of operations.

  star-jax benchmark layers --budget 60 --json layers.json
  star-jax benchmark layers --backward --write
  star-jax benchmark layers --preset tiny --frames 8 --height 144 --width 128

This measures one residual block, one spatial and one temporal transformer of each level at the size that they have
for the clip, the VAE's blocks, and, at the finest level, every form of each operation. Weights are random. The
report is written after every layer (--json), so that an interrupted run keeps its results. --write stores the
fastest forms in the table by device kind that every program reads.
"""

import argparse

HELP = "measure single layers, and find the fastest forms of operations"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to measure")
    what.add_argument("--preset", default="i2vgen-xl", metavar="NAME", help="sizes (default i2vgen-xl)")
    what.add_argument("--frames", type=int, default=32, metavar="N", help="number of frames (default 32)")
    what.add_argument(
        "--height", type=int, default=720, metavar="PX", help="height of the result (default 720)"
    )
    what.add_argument(
        "--width", type=int, default=1280, metavar="PX", help="width of the result (default 1280)"
    )
    what.add_argument(
        "--backward", action="store_true", help="also measure gradients, after all forward passes"
    )
    how = parser.add_argument_group("how to measure")
    how.add_argument("--dtype", default="auto", help="float32, bfloat16, float16, auto (default)")
    how.add_argument("--vae-dtype", default="float32", help="dtype of the VAE's blocks (default float32)")
    how.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="number of timings of each (default 3)"
    )
    how.add_argument("--budget", type=float, metavar="SECONDS", help="start no layer after this time")
    how.add_argument("--json", metavar="FILE", help="write the report to this file after every layer")
    how.add_argument("--write", action="store_true", help="store the fastest forms for this kind of device")


def run(args: argparse.Namespace) -> None:
    from star_jax.benchmark.layers import LayersBenchmark, differing_choices, measure_layers
    from star_jax.benchmark.report import describe_run
    from star_jax.errors import InputError
    from star_jax.files import check_report_path, write_json
    from star_jax.ops.variants import TABLE_FILE, write_table

    if args.json:
        check_report_path(args.json, ".json")
    options = ("preset", "frames", "height", "width", "dtype", "vae_dtype", "backward", "budget", "repeats")
    benchmark = LayersBenchmark(**{name: getattr(args, name) for name in options})
    environment = describe_run()
    if args.write and environment["hardware"]["backend"] == "cpu":
        raise InputError("--write stores forms by the kind of accelerator, but this is a CPU; leave it out")

    def on_row(row: dict, report: dict) -> None:
        print(_line(row), flush=True)
        if args.json:
            write_json(args.json, report | environment)

    print(f"{'layer':<38} {'ms':>9} {'TFLOP/s':>8} {'GB/s':>7} {'compiled in':>12}")
    report = measure_layers(benchmark, on_row)
    if args.json:
        write_json(args.json, report | environment)
    for row in report["rows"]:
        if row.get("share"):
            print(f"{row['share']:6.1%} of the {row['pass']} passes: {row['per_forward']} x {row['part']}")
    if not report["complete"]:
        print(f"stopped after the --budget of {args.budget:g} s; the remaining layers were not measured")
    for operation, (used, fastest) in differing_choices(report["chosen"]).items():
        print(f"{operation}: {fastest} is faster on this device than {used}, which is in use")
    if args.write:
        write_table(environment["hardware"]["device_kind"], report["chosen"])
        print(f"stored in {TABLE_FILE}")


def _line(row: dict) -> str:
    name = row["part"] + (" (backward)" if row["pass"] == "backward" else "")
    line = (
        f"{name:<38} {1e3 * row['seconds']:9.3f} {row['tflops_per_second']:8.1f} "
        f"{row['gigabytes_per_second']:7.0f} {row['compile_seconds']:10.1f} s"
    )
    return line + (f"  {row['form']}" if row["form"] else "")
