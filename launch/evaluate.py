"""Score restored videos: PSNR, SSIM, LPIPS, DISTS, warping error, VMAF and others, with and without ground truth.

  star-jax evaluate result.mp4 truth.mp4
  star-jax evaluate results/ truth/ --input low/ --metrics psnr,ssim,lpips,dists --json scores.json
  star-jax evaluate ours=results/ other=other/ truth/ --metrics lpips,vmaf --report report.html
  star-jax evaluate results/ truth/ --protocol star-table1 --weights weights/
  star-jax evaluate results/ --metrics niqe,ilniqe
  star-jax evaluate result/ truth.mp4 --input low/ --picture picture.png --frame 20

RESULTS and GT are videos, folders of images, or folders of these, matched by name; results/seed_1/horse.mp4 and
results/seed_2/horse.mp4 may share truth/horse.mp4. The last of several paths is the ground truth, unless --no-truth
is given. Several results are shown side by side, and NAME=PATH gives one a name. With --input, an interpolation of
the low-resolution input is scored, too. Score images (or --crf 0), because a lossy file makes every score worse.
--metrics list shows all scores, what they compute and the weights that they need; nothing is downloaded.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from star_jax.errors import InputError
from star_jax.launch.buckets import with_buckets
from star_jax.launch.interrupts import terminable

if TYPE_CHECKING:
    from star_jax.evaluation.evaluate import Evaluation
    from star_jax.evaluation.scores import Report

HELP = "score results, against ground truth or without"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="[NAME=]RESULTS ... GT",
        help="results, then their ground truth: each a video, a folder of images, or a folder of these",
    )
    parser.add_argument(
        "--metrics",
        metavar="A,B,...",
        help="scores (default: psnr,ssim,psnr_y,ssim_y,flicker); list: show all",
    )
    parser.add_argument(
        "--protocol", metavar="NAME", help="conventions of a paper: star-table1, dove or videolq"
    )
    parser.add_argument(
        "--no-truth", action="store_true", help="all paths are results: scores that need no ground truth"
    )
    parser.add_argument(
        "--input", metavar="LR", help="low-resolution input, which is enlarged and scored, too"
    )
    parser.add_argument(
        "--baseline", metavar="NAME", help="method that enlarges LR: bicubic (default), bilinear or lanczos"
    )
    parser.add_argument(
        "--crop", action="store_true", help="where sizes differ, score the top-left part they share"
    )
    parser.add_argument(
        "--frames", type=int, metavar="N", help="score only the first N frames of each clip (default: all)"
    )
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="PATH",
        help="file or folder of weights (repeatable); else ~/.cache/star_jax/metrics and installed packages",
    )
    parser.add_argument(
        "--json", metavar="OUT.json", help="write all scores, per frame and means, to this file"
    )
    parser.add_argument("--csv", metavar="OUT.csv", help="write a row of scores for each frame")
    parser.add_argument("--markdown", metavar="OUT.md", help="write the table of means as Markdown")
    parser.add_argument(
        "--report", metavar="OUT.html", help="write a page: table, plots, crops that differ most"
    )
    parser.add_argument("--plots", metavar="FOLDER", help="write a plot over frames of each clip")
    parser.add_argument(
        "--picture", metavar="OUT.png", help="LR enlarged | output | GT, and a part of them zoomed in"
    )
    parser.add_argument(
        "--frame", type=int, metavar="N", help="number of the frame in the picture (default: the middle one)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


@terminable()
@with_buckets(
    reads=("paths", "input", "weights"), writes=("json", "csv", "markdown", "report", "plots", "picture")
)
def run(args: argparse.Namespace) -> None:
    if args.metrics == "list":
        _print_metrics()
        return
    results, truth = _split(args)
    from star_jax.evaluation.evaluate import Evaluation
    from star_jax.evaluation.report.table import print_table
    from star_jax.progress import progress

    if args.baseline is not None and args.input is None:
        raise InputError("--baseline needs the low-resolution clips; give them with --input LR")
    evaluation = Evaluation(
        results,
        truth,
        metrics=args.metrics.split(",") if args.metrics is not None else None,
        protocol=args.protocol,
        input=args.input,
        baseline=args.baseline or "bicubic",
        crop=args.crop,
        num_frames=args.frames,
        weights=args.weights,
    )
    _check_files(args)
    frame = _picture_frame(args, evaluation)
    _print_left_out(args.protocol, evaluation)
    with progress("Scoring", evaluation.total_frames, "frames", quiet=args.quiet) as bar:
        report = evaluation.run(bar.advance)
    print_table(report)
    _write(args, report)
    if args.picture and frame is not None:
        _write_picture(args.picture, evaluation, frame)


def _split(args: argparse.Namespace) -> tuple[dict[str, str], str | None]:
    """Results by name, and the ground truth."""
    paths = list(args.paths)
    if not paths:
        raise InputError("there is nothing to score; give RESULTS and GT (see star-jax evaluate --help)")
    truth = None if args.no_truth or len(paths) == 1 else paths.pop()
    results: dict[str, str] = {}
    for path in paths:
        name, equals, named = path.partition("=")
        if not equals or Path(path).exists():
            name, named = Path(path).resolve().stem, path
        if name in results:
            raise InputError(f"two results are named {name!r}; give them names with NAME=PATH")
        results[name] = named
    return results, truth


def _check_files(args: argparse.Namespace) -> None:
    from star_jax.files import check_report_path

    for path, suffix in (
        (args.json, ".json"),
        (args.csv, ".csv"),
        (args.markdown, ".md"),
        (args.report, ".html"),
        (args.picture, ".png"),
    ):
        if path is not None:
            check_report_path(path, suffix)
    if args.picture is None and args.frame is not None:
        raise InputError("--frame chooses the frame of the picture; add --picture OUT.png")
    if args.report is not None or args.plots is not None:
        from star_jax.evaluation.report.plots import require_matplotlib

        require_matplotlib()
    if args.plots is not None and Path(args.plots).exists() and not Path(args.plots).is_dir():
        raise InputError(f"cannot write plots to {args.plots}, because it is a file; give a folder")


def _picture_frame(args: argparse.Namespace, evaluation: "Evaluation") -> int | None:
    """Number of the frame in the picture; None without --picture."""
    if args.picture is None:
        return None
    pairs = next(iter(evaluation.methods.values()))
    if len(pairs) > 1:
        raise InputError(f"--picture shows one clip, not {len(pairs)}; give the files of one clip")
    num_frames = pairs[0].result.info.num_frames
    if args.frame is not None and not 0 <= args.frame < num_frames:
        raise InputError(f"--frame is {args.frame}; choose 0 to {num_frames - 1}")
    return num_frames // 2 if args.frame is None else args.frame


def _print_left_out(protocol: str | None, evaluation: "Evaluation") -> None:
    """Prints the scores of a protocol that are not computed, and the frames that it leaves out."""
    import sys

    from star_jax.evaluation.protocols import get_protocol

    if protocol is None:
        return
    rules = get_protocol(protocol)
    if rules.missing:
        print(
            f"{protocol}: {', '.join(rules.missing)} are left out, because they are not part of star_jax",
            file=sys.stderr,
        )
    for pair in (pair for pairs in evaluation.methods.values() for pair in pairs):
        lengths = [reader.info.num_frames for reader in (pair.result, pair.truth) if reader is not None]
        if rules.shorter and len(set(lengths)) > 1:
            print(
                f"{pair.name}: the result has {lengths[0]} frames, and the ground truth {lengths[1]}; the first "
                f"{len(pair.frames)} are scored",
                file=sys.stderr,
            )


def _write(args: argparse.Namespace, report: "Report") -> None:
    from star_jax.evaluation.report.files import to_csv, to_json
    from star_jax.files import write_bytes, write_json

    if args.json:
        write_json(args.json, to_json(report))
    if args.csv:
        write_bytes(args.csv, to_csv(report).encode())
    if args.markdown:
        from star_jax.evaluation.report.table import to_markdown

        write_bytes(args.markdown, to_markdown(report).encode())
    if args.report:
        from star_jax.evaluation.report.page import to_html

        write_bytes(args.report, to_html(report).encode())
    if args.plots:
        from star_jax.evaluation.report.plots import plot_clip

        folder = Path(args.plots)
        for index, clip in enumerate(next(iter(report.scores.values()))):
            (folder / clip.name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / f"{clip.name}.png", plot_clip(report, index))


def _write_picture(path: str, evaluation: "Evaluation", frame: int) -> None:
    from star_jax.evaluation.picture import comparison
    from star_jax.evaluation.views import panels
    from star_jax.files import write_png

    pairs = {name: clips[0] for name, clips in evaluation.methods.items()}
    if len(pairs) == 1:
        pairs = {"output": next(iter(pairs.values()))}
    write_png(path, comparison(panels(pairs, frame, evaluation.baseline)))
    print(f"wrote {path}: frame {frame} of {next(iter(pairs.values())).name}")


def _print_metrics() -> None:
    from rich.console import Console
    from rich.table import Table

    from star_jax.evaluation.metrics.registry import METRICS
    from star_jax.evaluation.weights import weights_folder

    table = Table(caption=f"Converted weights are kept in {weights_folder()} (STAR_JAX_METRIC_WEIGHTS).")
    for column in ("name", "better", "ground truth", "weights", "what it computes"):
        table.add_column(column)
    for name, metric in METRICS.items():
        better = "higher" if metric.higher_is_better else "lower"
        needs = "yes" if metric.needs_truth else "no"
        table.add_row(name, better, needs, ", ".join(metric.networks) or "none", metric.rule)
    Console().print(table)
