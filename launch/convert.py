"""Convert PyTorch weights into a checkpoint directory.

  star-jax convert heavy_deg.pt svd/vae open_clip/ DIR
  star-jax convert heavy_deg.pt hf://stabilityai/stable-video-diffusion-img2vid/vae DIR --dtype bfloat16
  star-jax convert --inspect heavy_deg.pt
  star-jax convert random:tiny DIR

Each source is a file (.safetensors, .pt, .pth, .bin), a folder in Hugging Face's layout, or hf://owner/repo/path,
and gives the components it holds. A file of a whole CogVideoX, as DeepSpeed saves it, gives all three, except those
that have a source of their own. random:PRESET makes random weights. DIR appears when it is complete.
Families: star, venhancer, i2vgen-xl, vid2vid and diffusers-i2vgen-xl (networks), svd-vae and svd (autoencoder),
taesdv (a light decoder of SVD's latents, for upscale --decoder tiny), open-clip and clip (text tower).
Of CogVideoX: star-cogvideox, cogvideox and diffusers-cogvideox (network), cogvideox-vae and diffusers-cogvideox-vae
(autoencoder), t5-encoder (text encoder).

Networks of scores (alexnet, vgg16, lpips, dists, raft, dover, niqe, ilniqe; see star-jax evaluate) are converted
into a folder of them, one file each:

  star-jax convert raft-things.pth ~/.cache/star_jax/metrics
"""

import argparse

from star_jax.errors import InputError
from star_jax.launch.interrupts import terminable
from star_jax.presets import PRESETS

HELP = "convert PyTorch weights into a checkpoint directory"
_RANDOM = "random:"
METRIC_FORMATS = ("alexnet", "vgg16", "lpips", "dists", "raft", "dover", "niqe", "ilniqe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="sources, then the directory to make")
    parser.add_argument("--inspect", action="store_true", help="only describe the sources")
    parser.add_argument(
        "--format", default="auto", help="family of the sources, see above (auto: by their keys)"
    )
    parser.add_argument(
        "--preset",
        help=f"sizes: {', '.join(PRESETS)}, or a config.json (default: by the sources' shapes)",
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="dtype of the converted weights (default: as in the sources)",
    )
    parser.add_argument(
        "--lora",
        default="merge",
        metavar="merge|keep|RANK",
        help="low-rank updates of CogVideoX: merge them into their weights (default), keep them apart to train "
        "them on, or start new ones of this rank",
    )
    parser.add_argument("--allow-nan", action="store_true", help="accept weights that are not finite")
    parser.add_argument("--force", action="store_true", help="replace an existing checkpoint directory")
    parser.add_argument(
        "--sha256",
        action="append",
        default=[],
        metavar="HEX",
        help="a source must have this digest (repeatable)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of weights that no source gives (default 0)"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(args: argparse.Namespace) -> None:
    if args.inspect:
        _inspect(args)
        return
    if len(args.paths) < 2:
        raise InputError(f"only {args.paths[0]} is given; add the directory to make, or pass --inspect")
    if args.seed < 0:
        raise InputError(f"--seed is {args.seed}; it must not be negative")
    *sources, destination = args.paths
    with terminable():
        if all(_is_metric(source, args.format) for source in sources):
            _convert_metrics(sources, destination, args.sha256)
        elif sources[0].startswith(_RANDOM):
            _make_random(args, sources, destination)
        else:
            _convert(args, sources, destination)


def _inspect(args: argparse.Namespace) -> None:
    from pathlib import Path

    from star_jax.convert.metric_files import describe_metric_file
    from star_jax.convert.report import describe_source

    for path in args.paths:
        is_metric = _is_metric(path, args.format)
        print(describe_metric_file(Path(path)) if is_metric else describe_source(path, args.format))


def _is_metric(source: str, format: str) -> bool:
    """Whether a source has a metric's network, judged by --format or by its keys."""
    from pathlib import Path

    from star_jax.convert.metric_files import gives_metric_network

    if format != "auto":
        return format in METRIC_FORMATS
    return Path(source).is_file() and gives_metric_network(Path(source))


def _convert_metrics(sources: list[str], folder: str, vouched: list[str]) -> None:
    from pathlib import Path

    from star_jax.convert.metric_files import convert_metric_files

    for name, path in convert_metric_files(list(map(Path, sources)), Path(folder), vouched=vouched).items():
        print(f"{name}: {path}")


def _make_random(args: argparse.Namespace, sources: list[str], destination: str) -> None:
    from star_jax.init.random_checkpoint import random_checkpoint

    if len(sources) > 1:
        raise InputError(f"{sources[0]} makes every component; leave out {sources[1]}")
    preset = sources[0].removeprefix(_RANDOM)
    random_checkpoint(destination, preset, seed=args.seed, dtype=args.dtype or "float32", force=args.force)
    print(f"random weights of preset {preset} in {destination}")


def _convert(args: argparse.Namespace, sources: list[str], destination: str) -> None:
    from star_jax.convert.converter import convert_checkpoint
    from star_jax.convert.report import conversion_report

    provenance = convert_checkpoint(
        sources,
        destination,
        format=args.format,
        preset=_preset(args.preset),
        dtype=args.dtype,
        lora=int(args.lora) if args.lora.isdigit() else args.lora,
        allow_nan=args.allow_nan,
        force=args.force,
        expected_sha256=args.sha256,
        seed=args.seed,
        quiet=args.quiet,
    )
    print(conversion_report(provenance))


def _preset(value: str | None):
    """Reads the sizes from a JSON file; the name of a preset is returned unchanged."""
    if value is None or not value.endswith(".json"):
        return value
    from star_jax.models.architectures import read_model_config

    try:
        with open(value, encoding="utf-8") as file:
            return read_model_config(file.read())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {value} ({error}); give a preset or a config.json") from error
