"""Compile for TPUs or GPUs that are not at hand, and report memory, operations and traffic.

  star-jax compile-check --config configs/star_i2vgenxl.py --topology v5p:4x4x4 --config.mesh.context=8
  star-jax compile-check --config configs/star_i2vgenxl.py --topology v5e:4x4 --num-slices 2 \\
      --config.mesh.context=-1 --config.mesh.fsdp=1
  star-jax compile-check --inference --topology v5e:2x4
  star-jax compile-check --inference --topology v6e:2x4 --frames 32 --height 720 --width 1280 --json report.json
  star-jax compile-check --inference --stage decode --topology v5e:1x1 --preset cogvideox-5b --frames 33
  star-jax compile-check --config configs/star_i2vgenxl.py --topology h100:1 --config.train.batch_size=1

This compiles the training step of a configuration, or one step of the guided sampler (bfloat16), for a TPU
topology, on any machine: pip install "star_jax[tpu]". Topologies are named by kind and shape: v5e:4x4, v5p:2x2x1,
v6e:16x16, or v6e:1x1 for one chip. With several slices, the table also has the traffic over the network between
them. GPUs of one host are h100:1, h100:8 or h200:4 (pip install "star_jax[cuda]"); cuDNN's scratch memory is not
counted. The exit code is 1 if the program needs more memory than a device has.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from star_jax.errors import InputError, RunError
from star_jax.files import bytes_text

HELP = "compile training or sampling for TPUs or GPUs that are not at hand"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from star_jax.launch.experiment import add_config_arguments

    add_config_arguments(parser, required=False)
    parser.add_argument(
        "--topology", required=True, metavar="KIND:SHAPE", help="such as v5e:4x4, v5p:4x4x4, h100:8"
    )
    parser.add_argument(
        "--num-slices", type=int, default=1, metavar="N", help="number of slices of that topology (default 1)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report to this file")
    parser.add_argument(
        "--full-effort",
        action="store_true",
        help="optimise as for a real run: takes about ten times as long, and gives nearly the same peak memory",
    )
    inference = parser.add_argument_group("programs of upscaling, instead of a training step")
    inference.add_argument("--inference", action="store_true", help="compile a program of an upscale")
    inference.add_argument(
        "--stage",
        choices=["sample", "encode", "decode"],
        default="sample",
        help="which one: a step of the sampler (default), or the encoder or decoder on whole frames, which work on "
        "one device",
    )
    inference.add_argument(
        "--preset", default="i2vgen-xl", metavar="NAME", help="preset of sizes (default i2vgen-xl)"
    )
    inference.add_argument(
        "--frames", type=int, default=32, metavar="N", help="number of frames of the clip (default 32)"
    )
    inference.add_argument(
        "--height", type=int, default=720, metavar="N", help="height of the result (default 720)"
    )
    inference.add_argument(
        "--width", type=int, default=1280, metavar="N", help="width of the result (default 1280)"
    )
    inference.add_argument(
        "--mesh",
        default=None,
        metavar="AXES",
        help="devices by axis, such as data=2,context=4: data splits the two branches of guidance, context the "
        "frames, fsdp branches and weights (default: data=2, context the rest)",
    )


def run(args: argparse.Namespace) -> None:
    from star_jax.benchmark.aot.topology import hbm_bytes, platform_of, prepare_environment, topology_devices
    from star_jax.files import check_report_path, write_json

    if args.inference == (args.config is not None):
        raise InputError(
            "give either --config FILE (the training step) or --inference (programs of upscaling)"
        )
    prepare_environment(quick=not args.full_effort)
    if args.json:
        check_report_path(args.json, ".json")
    devices = topology_devices(args.topology, args.num_slices)
    traced, facts = (_inference if args.inference else _training)(args, devices)

    from star_jax.benchmark.aot.check import compile_for
    from star_jax.environment import describe

    print(f"compiling for {len(devices)} x {devices[0].device_kind} ...", file=sys.stderr)
    report = compile_for(traced, hbm_bytes(args.topology), platform_of(args.topology)).to_dict()
    facts = {"topology": args.topology, "num_slices": args.num_slices, "devices": len(devices), **facts}
    _print(facts, report)
    if args.json:
        write_json(args.json, {**facts, **report, **describe()})
    if not report["fits"]:
        raise RunError(
            f"{facts['program']} needs {bytes_text(report['peak_device_bytes'])} a device, but {args.topology} has "
            f"{bytes_text(report['hbm_bytes'])}; use more devices, give more of them to the context axis, or "
            + ("use fewer frames" if args.inference else "set train.remat=full and diffusion.frames")
        )


def _training(args: argparse.Namespace, devices: list[Any]) -> tuple[Any, dict[str, Any]]:
    import dataclasses

    from star_jax.benchmark.aot.programs import trace_train_step
    from star_jax.benchmark.aot.topology import platform_of
    from star_jax.launch.experiment import read_experiment
    from star_jax.ops.platform import targeting
    from star_jax.parallel.mesh import make_mesh
    from star_jax.train.experiments import make_objective

    config = read_experiment(args)
    # Sizes come from the preset, so neither a checkpoint nor clips are read.
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, checkpoint=None),
        train=dataclasses.replace(config.train, validate_every_steps=0),
    )
    mesh = make_mesh(config.mesh, devices)
    with targeting(platform_of(args.topology)):
        objective = make_objective(config)
    data = config.data
    facts = {
        "program": "training step",
        "preset": config.model.preset,
        "batch_size": config.train.batch_size,
        "clip": [data.num_frames, data.height, data.width],
        "decoded_frames": config.diffusion.frames or data.num_frames,
        "remat": config.train.remat,
        "mesh": dict(mesh.shape),
    }
    return trace_train_step(objective, config, mesh), facts


def _inference(args: argparse.Namespace, devices: list[Any]) -> tuple[Any, dict[str, Any]]:
    from star_jax.benchmark.aot.programs import trace_decoder, trace_encoder, trace_sampler_step
    from star_jax.parallel.mesh import MeshConfig, make_mesh, parse_mesh
    from star_jax.presets import get_preset

    if args.rest:
        raise InputError(f"unknown argument {args.rest[0]!r}; see --help")
    if args.stage != "sample":
        devices = devices[:1]
    both_branches = 2 if len(devices) % 2 == 0 else 1
    default = MeshConfig(data=both_branches, context=-1)
    mesh = make_mesh(default if args.mesh is None else parse_mesh(args.mesh), devices)
    size = {"num_frames": args.frames, "height": args.height, "width": args.width}
    facts = {
        "program": {"sample": "sampler step", "encode": "encoder", "decode": "decoder"}[args.stage],
        "preset": args.preset,
        "batch_size": 1,
        "clip": list(size.values()),
        "mesh": dict(mesh.shape),
    }
    trace = {"sample": trace_sampler_step, "encode": trace_encoder, "decode": trace_decoder}[args.stage]
    return trace(get_preset(args.preset), mesh, **size), facts


def _print(facts: dict[str, Any], report: dict[str, Any]) -> None:
    mesh = ", ".join(f"{axis} {size}" for axis, size in facts["mesh"].items())
    frames, height, width = facts["clip"]
    slices = f"{facts['num_slices']} x " if facts["num_slices"] > 1 else ""
    lines = {
        "program": f"{facts['program']}, {facts['preset']}, {facts['batch_size']} x {frames} x {height}x{width}",
        "devices": f"{slices}{facts['topology']}: {facts['devices']} ({mesh})",
        "peak memory": f"{bytes_text(report['peak_device_bytes'])} of {bytes_text(report['hbm_bytes'])} a device",
        "operations": f"{report['tflop_per_step']:.1f} TFLOP a step, including recomputation",
        "compilation": f"{report['compile_seconds']:.0f} s",
    }
    for kind, traffic in report["collectives"].items():
        lines[kind] = f"{traffic['count']} a step, {traffic['bytes'] / 2**20:.1f} MiB a device"
    for kind, traffic in report["between_slices"].items():
        amount = f"{traffic['count']} a step, {traffic['bytes'] / 2**20:.1f} MiB sent by a device"
        lines[f"{kind} between slices"] = amount
    for name, count in report["kernels"].items():
        lines[name] = f"{count} a step"
    width = max(map(len, lines))
    for name, text in lines.items():
        print(f"{name:<{width}}  {text}")
