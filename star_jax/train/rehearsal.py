"""A rehearsal of a run: two steps on real data, whose results are discarded; nothing is written."""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import jax
from jax.sharding import Mesh

from star_jax.diffusion.noise import noise_key
from star_jax.files import bytes_text, is_url
from star_jax.parallel.mesh import make_mesh, replicated
from star_jax.parallel.peaks import mfu
from star_jax.parallel.prefetch import prefetch_to_devices
from star_jax.train.batches import TrainBatches
from star_jax.train.checkpoints import saved_steps
from star_jax.train.objective import Objective
from star_jax.train.optimizer import make_optimizer
from star_jax.train.overview import overview
from star_jax.train.start import RunConfig, compile_step, load_state, program_flops
from star_jax.train.turns import turns_of
from star_jax.train.workdir import absolute


def rehearse(
    objective: Objective, config: RunConfig, workdir: str | os.PathLike, flops: float | None = None
) -> str:
    """Loads weights and data, compiles the step, and takes two steps that change nothing on disk.

    Args:
      objective, config, workdir: see `star_jax.train.loop.train`.
      flops: operations of one step on all devices; by default the compiler's count.

    Returns:
      A report of several lines, with what was measured and what it means for the run.

    Raises:
      InputError: the configuration does not fit the devices or the data.
    """
    mesh, settings = make_mesh(config.mesh), config.train
    done = max(saved_steps(workdir), default=0)
    with jax.set_mesh(mesh):
        data = TrainBatches(objective, config.data, settings, mesh)
        optimizer = make_optimizer(config.optimizer, settings.num_steps, turns_of(objective))
        loader = data.loader()
        with contextlib.closing(prefetch_to_devices(loader, data.place)) as batches:
            with _timed() as reading:
                batch = next(batches)
            with _timed() as loading:
                state, frozen, _ = load_state(objective, optimizer, settings, mesh, lambda abstract: None)
            saved_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
            key = jax.device_put(noise_key(settings.seed), replicated(mesh))
            with _timed() as compiling:
                step = compile_step(objective, optimizer, settings, mesh, (state, frozen, key))
            # The first step of a program is slower than the others.
            state, _ = jax.block_until_ready(step(state, frozen, batch, key))
            with _timed() as waiting:
                batch = next(batches)
            with _timed() as computing:
                jax.block_until_ready(step(state, frozen, batch, key))

    start, each = reading.seconds + loading.seconds + compiling.seconds, computing.seconds + waiting.seconds
    until_save = start + min(settings.checkpoint_every_steps, settings.num_steps - done) * each
    until_end = start + (settings.num_steps - done) * each
    share = mfu((flops or program_flops(step, mesh) or 0) / each, num_devices=mesh.size)
    frames = settings.batch_size * config.data.num_frames / each
    lines = {
        "data": f"{len(loader.records):,} clips in {config.data.source}"
        + (f"; of the first, {len(loader.bad)} could not be used" if loader.bad else ""),
        "batch": ", ".join(map(_shape, batch.items())) + f"; the first after {_duration(reading.seconds)}",
        "weights": "\n" + overview(*objective.abstract_params()),
        "devices": f"{mesh.size} x {jax.devices()[0].device_kind} as {_axes(mesh)}",
        "memory": _memory(step),
        "step": f"{computing.seconds:.3g} s, and {waiting.seconds:.3g} s of waiting for data; {frames:.3g} frames "
        "per second" + ("" if share is None else f", MFU {share:.1%}"),
        "checkpoint": _disk(workdir, saved_bytes, settings.keep_checkpoints),
        "begins": f"at step {done} of {settings.num_steps}" + (", from its checkpoint" if done else ""),
        "time": f"{_duration(start)} to start ({_duration(loading.seconds)} of weights, "
        f"{_duration(compiling.seconds)} of compilation); first checkpoint after {_duration(until_save)}, all "
        f"steps after {_duration(until_end)}",
    }
    return "\n".join(f"{name:<12}{text}" for name, text in lines.items())


def _shape(item: tuple[str, jax.Array]) -> str:
    name, leaf = item
    return f"{name} {'x'.join(map(str, leaf.shape))} {leaf.dtype}"


class _Time:
    seconds = 0.0


@contextlib.contextmanager
def _timed() -> Iterator[_Time]:
    time_spent, begun = _Time(), time.perf_counter()
    yield time_spent
    time_spent.seconds = time.perf_counter() - begun


def _axes(mesh: Mesh) -> str:
    return " x ".join(f"{name}={size}" for name, size in mesh.shape.items())


def _memory(step: jax.stages.Compiled) -> str:
    """Memory that the compiler plans on one device, and the device's memory if it is known."""
    plan = step.memory_analysis()
    if plan is None:
        return "the compiler reports no plan"
    weights, working = plan.argument_size_in_bytes, plan.temp_size_in_bytes
    text = f"{bytes_text(weights)} for weights, state and batch, and {bytes_text(working)} for work, on each device"
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return f"{text}; it has {bytes_text(limit)}" if limit else text


def _disk(workdir: str | os.PathLike, size: int, count: int) -> str:
    text = f"{bytes_text(size)}, {count} are kept"
    if is_url(workdir):
        return text
    place = Path(absolute(workdir))
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free, (count + 1) * size
    verdict = "" if free > needed else f": too little, {bytes_text(needed)} are needed"
    return f"{text}; {bytes_text(free)} are free at {workdir}{verdict}"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
