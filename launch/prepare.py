"""Prepare a training dataset: filtered, split, degraded and written as ArrayRecord shards.

  star-jax prepare videos/ -o dataset/ --num-degradations 2 --jobs 8
  star-jax prepare openvid.csv -o gs://bucket/dataset --process 3/16
  star-jax prepare openvid.csv -o gs://bucket/dataset --beam --runner=DataflowRunner --project=... --region=...

The same command resumes: finished shards are kept. Several machines can write one dataset, each with its --process
INDEX/COUNT; the one that finishes last writes the index. With --beam an Apache Beam pipeline writes the dataset
(pip install 'star_jax[beam]'): on this machine, in --jobs processes, or where Beam's flags say. Train on it with
data.source=dataset/, and validate on dataset/validation.
"""

import argparse
import concurrent.futures
import functools
import multiprocessing

from star_jax.launch.data_arguments import parse_share, parse_size
from star_jax.launch.interrupts import terminable

HELP = "filter, degrade and pack videos into a dataset"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="folder of videos, .csv (path,text), .jsonl, or synthetic:COUNT")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder of the dataset")
    _add_clips(parser.add_argument_group("clips"))
    _add_dataset(parser.add_argument_group("dataset"))
    _add_run(parser.add_argument_group("run"))
    parser.set_defaults(takes_rest=True)  # Beam's flags


def _add_clips(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--recipe",
        default="realbasicvsr",
        metavar="NAME",
        help="recipe of degradations (default realbasicvsr)",
    )
    group.add_argument(
        "--num-degradations",
        type=int,
        default=1,
        metavar="K",
        help="number of degradations per clip (default 1)",
    )
    group.add_argument(
        "--size", default="720x1280", metavar="HxW", help="ground truth size (default 720x1280)"
    )
    group.add_argument("--frames", type=int, default=32, metavar="N", help="frames per clip (default 32)")
    group.add_argument("--interval", type=int, default=2, metavar="N", help="frame interval (default 2)")
    group.add_argument(
        "--max-upscale",
        type=float,
        default=1.0,
        metavar="X",
        help="leave out videos smaller than size / X (default 1)",
    )
    group.add_argument(
        "--latents", metavar="DIR", help="store VAE latents and text embeddings, made with this checkpoint"
    )


def _add_dataset(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--validation-share",
        type=float,
        default=0.01,
        metavar="X",
        help="share of the clips held out for validation, chosen by hash (default 0.01)",
    )
    group.add_argument(
        "--clips-per-shard", type=int, default=64, metavar="N", help="number of clips in a shard (default 64)"
    )
    group.add_argument(
        "--max-bad-share",
        type=float,
        default=0.1,
        metavar="X",
        help="stop over this share of unusable files (default 0.1)",
    )
    group.add_argument(
        "--seed", type=int, default=0, help="seed of windows, crops and degradations (default 0)"
    )


def _add_run(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--process", default="0/1", metavar="I/N", help="this machine's share of the shards (default 0/1)"
    )
    group.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="processes on this machine (default 1)"
    )
    group.add_argument(
        "--beam",
        action="store_true",
        help="write by an Apache Beam pipeline; takes Beam's flags, such as --runner=FlinkRunner",
    )
    group.add_argument("--quiet", action="store_true", help="no progress bars")


@terminable()
def run(args: argparse.Namespace) -> None:
    from star_jax.data.config import DataConfig
    from star_jax.data.prepare.plan import PrepareConfig
    from star_jax.errors import InputError

    if args.rest and not args.beam:
        raise InputError(f"unknown argument {args.rest[0]!r}; see --help (Beam's flags need --beam)")
    if args.beam and args.process != "0/1":
        raise InputError(
            f"--process is {args.process}, but with --beam the runner distributes the work; leave it out"
        )
    height, width = parse_size(args.size)
    machine, machines = parse_share(args.process)
    if args.jobs < 1 or (args.latents and args.jobs > 1):
        raise InputError(
            f"--jobs is {args.jobs}; it must be at least 1, and exactly 1 with --latents (there is one device)"
        )
    data = DataConfig(
        args.source,
        recipe=args.recipe,
        num_frames=args.frames,
        frame_interval=args.interval,
        height=height,
        width=width,
        max_upscale=args.max_upscale,
        seed=args.seed,
        max_bad_share=args.max_bad_share,
    )
    config = PrepareConfig(
        data, args.output, args.num_degradations, args.validation_share, args.clips_per_shard
    )
    if args.beam:
        _report(args.output, _prepare_on_beam(config, args))
        return
    shares = [(machine * args.jobs + job, machines * args.jobs) for job in range(args.jobs)]
    work = functools.partial(_prepare_share, config, args.latents, args.quiet)
    if args.jobs == 1:
        manifests = [work(shares[0])]
    else:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(args.jobs, mp_context=context) as pool:
            try:
                manifests = list(pool.map(work, shares))
            except KeyboardInterrupt:  # or SIGTERM, which does not reach the workers
                for worker in multiprocessing.active_children():
                    worker.terminate()
                raise
    _report(args.output, next((manifest for manifest in manifests if manifest), None))


def _prepare_share(config, checkpoint: str | None, quiet: bool, share: tuple[int, int]) -> dict | None:
    import cv2

    from star_jax.data.prepare.write import prepare

    cv2.setNumThreads(1)
    encoder = _make_encoder(config, checkpoint)
    return prepare(config, encoder, process_index=share[0], process_count=share[1], quiet=quiet)


def _prepare_on_beam(config, args: argparse.Namespace) -> dict | None:
    from star_jax.data.prepare.on_beam import prepare_on_beam

    flags = ["--default_sdk_harness_log_level=ERROR", *args.rest]
    if args.jobs > 1:
        flags += [f"--direct_num_workers={args.jobs}", "--direct_running_mode=multi_processing"]
    make = functools.partial(_make_encoder, config, args.latents)
    return prepare_on_beam(config, make, flags, quiet=args.quiet)


def _make_encoder(config, checkpoint: str | None):
    if checkpoint is None:
        from star_jax.data.prepare.shards import clip_encoder

        return clip_encoder(config)
    from star_jax.data.prepare.latents import latent_encoder

    return latent_encoder(config, checkpoint)


def _report(output: str, manifest: dict | None) -> None:
    if manifest is None:
        print(
            f"wrote this machine's shards to {output}; the dataset is complete when the others have written theirs"
        )
        return
    counts = manifest["counts"]
    print(
        f"wrote {output}: {counts['train']} training and {counts['validation']} validation clips of "
        f"{counts['found']} videos; {counts['skipped']} left out (see {output}/manifest.json)"
    )
