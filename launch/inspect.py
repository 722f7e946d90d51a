"""Describe a checkpoint directory: its components, parameters and dtypes, and where they came from.

star-jax inspect DIR
star-jax inspect DIR --rows 2000
"""

import argparse

HELP = "describe a checkpoint directory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="DIR", help="checkpoint directory")
    parser.add_argument(
        "--rows",
        type=int,
        default=0,
        help="rows of each component's table of parameters (default 0: no table)",
    )


def run(args: argparse.Namespace) -> None:
    from collections import Counter

    from clu import parameter_overview

    from star_jax.checkpoints.directory import (
        component_metadata,
        load_provenance,
        present_components,
        read_config,
    )
    from star_jax.checkpoints.trees import unflatten
    from star_jax.models.architectures import build_model

    config, provenance = read_config(args.checkpoint), load_provenance(args.checkpoint)
    print(f"{args.checkpoint}: preset {config.preset}")
    for name in present_components(args.checkpoint):
        leaves = component_metadata(args.checkpoint, name)
        count = parameter_overview.count_parameters(unflatten(leaves))
        dtypes = ", ".join(
            f"{dtype} {n}" for dtype, n in Counter(str(x.dtype) for x in leaves.values()).items()
        )
        origin = provenance.get("components", {}).get(name, {})
        print(f"{name}: {count:,} parameters in {len(leaves)} arrays ({dtypes})", _origin(origin))
        if args.rows > 0:
            tree = unflatten(leaves)
            print(parameter_overview.get_parameter_overview(tree, include_stats=False, max_lines=args.rows))
    missing = set(build_model(config).components) - set(present_components(args.checkpoint))
    if missing:
        print(f"missing: {', '.join(sorted(missing))}; upscaling needs all components")
    for file, digest in provenance.get("sources", {}).items():
        print(f"{digest}  {file}")


def _origin(origin: dict) -> str:
    if not origin:
        return ""
    fresh = f", {len(origin['fresh'])} fresh" if origin.get("fresh") else ""
    family = f" ({origin['family']}{fresh})" if "family" in origin else ""
    return f"from {origin.get('source', 'no file')}{family}"
