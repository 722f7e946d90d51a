"""Score restored videos against ground truth: PSNR, SSIM, flicker.

  star-jax evaluate result.mp4 truth.mp4
  star-jax evaluate results/ truth/ --input low/ --baseline bicubic --json scores.json
  star-jax evaluate result/ truth.mp4 --input low/ --picture picture.png --frame 20

RESULTS and GT are videos, folders of images, or folders of these, matched by name; results/seed_1/horse.mp4 and
results/seed_2/horse.mp4 may share truth/horse.mp4. With --input, an interpolation of the low-resolution input is
scored, too, and the difference is shown. Score images (or --crf 0), as a lossy file costs every score.
"""

import argparse
from pathlib import Path

from star_jax.errors import InputError
from star_jax.launch.interrupts import terminable

HELP = "score results against ground truth"
COLUMNS = {
    "psnr": ("PSNR dB", 2),
    "ssim": ("SSIM", 4),
    "psnr_y": ("PSNR-Y dB", 2),
    "ssim_y": ("SSIM-Y", 4),
    "flicker": ("flicker", 3),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", metavar="RESULTS", help="video, folder of images, or folder of these")
    parser.add_argument("truth", metavar="GT", help="ground truth, the same")
    parser.add_argument("--input", metavar="LR", help="low-resolution input, the same; scored when enlarged")
    parser.add_argument(
        "--baseline", metavar="NAME", help="how LR is enlarged: bicubic (default), bilinear or lanczos"
    )
    parser.add_argument(
        "--crop", action="store_true", help="where sizes differ, score the top-left part they share"
    )
    parser.add_argument("--json", metavar="OUT", help="write all scores to this file")
    parser.add_argument(
        "--picture", metavar="OUT.png", help="LR enlarged | output | GT, and a part of them zoomed in"
    )
    parser.add_argument("--frame", type=int, metavar="N", help="of the picture (default: the middle one)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


@terminable()
def run(args: argparse.Namespace) -> None:
    from star_jax.evaluation.clips import pair_clips
    from star_jax.evaluation.scoring import BASELINES, score_clip
    from star_jax.files import write_json
    from star_jax.progress import progress

    if args.baseline is not None and args.input is None:
        raise InputError("--baseline needs the low-resolution clips: give them with --input LR")
    baseline = args.baseline or "bicubic"
    if baseline not in BASELINES:
        raise InputError(f"no baseline {baseline!r}; choose one of {', '.join(BASELINES)}")
    low = Path(args.input) if args.input is not None else None
    pairs = pair_clips(Path(args.results), Path(args.truth), low, crop=args.crop)
    _check_outputs(args, pairs)
    with progress(
        "Scoring", sum(pair.result.info.num_frames for pair in pairs), "frames", quiet=args.quiet
    ) as bar:
        clips = [score_clip(pair, baseline, bar.advance) for pair in pairs]
    report = _report(clips, baseline if low is not None else None)
    _print_table(report)
    if args.json:
        write_json(args.json, report)
    if args.picture:
        _write_picture(args, pairs[0], baseline)


def _check_outputs(args: argparse.Namespace, pairs: list) -> None:
    from star_jax.files import check_report_path

    if args.json:
        check_report_path(args.json, ".json")
    if args.picture is None:
        if args.frame is not None:
            raise InputError("--frame is of the picture: add --picture OUT.png")
        return
    check_report_path(args.picture, ".png")
    if len(pairs) > 1:
        raise InputError(f"--picture shows one clip, not {len(pairs)}: give the files of one clip")
    num_frames = pairs[0].result.info.num_frames
    if args.frame is not None and not 0 <= args.frame < num_frames:
        raise InputError(f"--frame is {args.frame}; the clip has frames 0 to {num_frames - 1}")


def _report(clips: list, baseline: str | None) -> dict:
    """Scores of all clips and their means, with what they were made from."""
    from star_jax.environment import describe
    from star_jax.evaluation.metrics import mean_scores

    rows = []
    for clip in clips:
        pair = clip.pair
        files = {"result": pair.result, "ground_truth": pair.truth, "input": pair.low}
        rows.append(
            {
                "name": pair.name,
                "num_frames": pair.result.info.num_frames,
                "frame_size": [pair.height, pair.width],
                "files": {
                    kind: str(reader.info.path) for kind, reader in files.items() if reader is not None
                },
                **_scores(clip.result, clip.baseline),
            }
        )
    means = mean_scores([clip.result for clip in clips])
    baseline_means = mean_scores([clip.baseline for clip in clips]) if baseline else None
    report = {"baseline": baseline, "num_clips": len(rows), "mean": _scores(means, baseline_means)}
    return report | {"clips": rows} | describe()


def _scores(result, baseline) -> dict:
    from dataclasses import asdict

    from star_jax.evaluation.metrics import difference

    if baseline is None:
        return {"scores": asdict(result)}
    return {
        "scores": asdict(result),
        "baseline_scores": asdict(baseline),
        "difference": asdict(difference(result, baseline)),
    }


def _print_table(report: dict) -> None:
    import sys

    from rich.console import Console
    from rich.table import Table

    baseline = report["baseline"]
    table = Table(title=f"results (difference to {baseline})" if baseline else None)
    table.add_column("clip")
    table.add_column("frames", justify="right")
    for title, _ in COLUMNS.values():
        table.add_column(title, justify="right", no_wrap=True)
    for clip in report["clips"]:
        table.add_row(clip["name"], str(clip["num_frames"]), *_cells(clip))
    table.add_section()
    table.add_row("mean", "", *_cells(report["mean"]))
    if baseline:
        table.add_row(f"{baseline}, mean", "", *_cells({"scores": report["mean"]["baseline_scores"]}))
    # A pipe or a log has no width of its own; 80 columns would fold the rows.
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _cells(row: dict) -> list[str]:
    def text(value: float | None, change: float | None, digits: int) -> str:
        if value is None:
            return "-"
        return f"{value:.{digits}f}" + ("" if change is None else f" ({change:+.{digits}f})")

    changes = row.get("difference", {})
    return [text(row["scores"][key], changes.get(key), digits) for key, (_, digits) in COLUMNS.items()]


def _write_picture(args: argparse.Namespace, pair, baseline: str) -> None:
    from star_jax.evaluation.picture import comparison
    from star_jax.evaluation.scoring import panels
    from star_jax.files import write_png

    frame = pair.result.info.num_frames // 2 if args.frame is None else args.frame
    write_png(args.picture, comparison(panels(pair, frame, baseline)))
    print(f"wrote {args.picture}: frame {frame} of {pair.name}")
