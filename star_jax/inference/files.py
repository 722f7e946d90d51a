"""Upscales video files to video files, in bounded host memory."""

import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from star_jax.checkpoints.directory import read_config
from star_jax.files import parse_bytes
from star_jax.inference.compile_cache import use_compile_cache
from star_jax.inference.display import StageBars
from star_jax.inference.jobs import Job, make_jobs
from star_jax.inference.memory import MemoryPlan, plan_memory
from star_jax.inference.overlap import read_ahead, write_behind
from star_jax.inference.pipeline import OnProgress, StarPipeline
from star_jax.inference.settings import UpscaleSettings
from star_jax.models.architectures import build_model
from star_jax.ops.attention import AttentionKernels
from star_jax.presets import BUNDLED
from star_jax.video.images import ImageSequenceReader, open_target
from star_jax.video.reader import VideoReader

AnyPath = str | os.PathLike


def upscale(
    inputs: AnyPath | Sequence[AnyPath],
    output: AnyPath,
    *,
    checkpoint: AnyPath = BUNDLED,
    resolution: int | None = None,
    frame_rate: Fraction | None = None,
    skip_existing: bool = False,
    truth: AnyPath | None = None,
    dtype: str = "auto",
    attention: str = "auto",
    max_memory: int | str | None = None,
    compile_cache: AnyPath | None = None,
    crf: float = 17,
    preset: str = "medium",
    quiet: bool = False,
    **settings: Any,
) -> list[Job]:
    """Upscales videos, images and folders of images into files that appear when they are complete.

    Everything that can be checked is checked before the model is loaded.

    Args:
      inputs: one path or several.
      output: a file (.mp4, .mov, .mkv, or .png of one image), a pattern such as folder/%05d.png, or a folder.
      checkpoint: directory made by `star_jax.convert`; by default tiny-star, the small model in the package.
      resolution: pixels of the output's shorter side, in place of the setting `scale`.
      frame_rate: of folders of images; 24 by default.
      skip_existing: leave inputs alone whose output is there.
      truth: ground truth that the output of a single input is to be compared with: checked for its size and length.
      dtype: `float32`, `bfloat16`, `float16` or `auto`, see `StarPipeline.from_pretrained`.
      attention: kernel of every attention site, see `star_jax.ops.attention`.
      max_memory: bytes, or such as "12GiB", to use at most; by default what the device has.
      compile_cache: folder of compiled programs; None is ~/.cache/star_jax, "" keeps none.
      crf: x264's constant rate factor, 0 (lossless) to 51.
      preset: x264's preset.
      quiet: show no progress.
      **settings: see `UpscaleSettings`; the checkpoint's own defaults come before those.

    Returns:
      What was done: a `Job` for each input that was upscaled.

    Raises:
      InputError: an input, output or setting that cannot be used, or too little memory.
      RunError: a damaged input, a full disk, non-finite numbers.
    """
    config = read_config(checkpoint)
    model = build_model(config, dtype=dtype, kernels=AttentionKernels.all(attention))
    chosen = UpscaleSettings(**{**dataclasses.asdict(config.sampling), **settings})
    chosen.check_tiles(model.size_rule)
    budget = parse_bytes(max_memory, "--max-memory") if isinstance(max_memory, str) else max_memory
    jobs = make_jobs(
        [os.fspath(path) for path in ([inputs] if isinstance(inputs, AnyPath) else inputs)],
        os.fspath(output),
        chosen,
        resolution=resolution,
        frame_rate=frame_rate,
        skip_existing=skip_existing,
        truth=truth,
        quiet=quiet,
    )
    if not jobs:
        return []
    plans = [plan_memory(model, job.settings, job.info.num_frames, job.size, budget=budget) for job in jobs]
    use_compile_cache(compile_cache)
    pipeline = StarPipeline.from_pretrained(checkpoint, dtype=dtype, attention=attention)
    for job, plan in zip(jobs, plans, strict=True):
        _describe(job, plan, quiet=quiet)
        with StageBars(quiet=quiet) as on_progress:
            upscale_video(
                pipeline,
                job.reader,
                job.output,
                plan.settings,
                crf=crf,
                preset=preset,
                on_progress=on_progress,
            )
        if not quiet:
            print(job.output)
    return jobs


def _describe(job: Job, plan: MemoryPlan, *, quiet: bool) -> None:
    if quiet:
        return
    info, (height, width) = job.info, job.settings.target_size(*job.size)
    print(
        f"{info.path}: {info.num_frames} frames, {info.width}x{info.height} to {width}x{height}",
        file=sys.stderr,
    )
    print(plan.describe(), file=sys.stderr)


def upscale_video(
    pipeline: StarPipeline,
    reader: VideoReader | ImageSequenceReader,
    output: Path,
    settings: UpscaleSettings,
    *,
    crf: float = 17,
    preset: str = "medium",
    on_progress: OnProgress,
) -> None:
    """Upscales `reader`'s video into `output`, keeping its timing, sound and subtitles.

    The video is read twice, a few frames at a time: once to encode it, once more for the colour fix while the
    result is decoded and written. Reading and writing go on in threads while the device works. The output appears
    under its name only when it is complete.

    Args:
      pipeline: a loaded model.
      reader: an open source.
      output: .mp4, .mov or .mkv file, or a pattern such as out/%05d.png.
      settings: see `UpscaleSettings`.
      crf: x264's constant rate factor, 0 (lossless) to 51.
      preset: x264's preset.
      on_progress: called with (stage, done, total).

    Raises:
      InputError: the output cannot be written there, or the prompt cannot be used.
      RunError: a damaged input, a full disk, non-finite numbers.
    """
    info = reader.info
    timestamps: list[int] = []

    def read(size: int) -> Iterator[np.ndarray]:
        timestamps.clear()
        for frames, pts in read_ahead(reader.chunks(size)):
            timestamps.extend(pts)
            yield frames

    height, width = settings.target_size(info.height, info.width)
    pieces = pipeline.stream(
        read, info.num_frames, (info.height, info.width), settings, on_progress=on_progress
    )
    with open_target(
        output, width=width, height=height, frame_rate=info.frame_rate, crf=crf, preset=preset, source=info
    ) as writer:
        done = 0
        with write_behind(lambda piece: writer.write(*piece)) as write:
            for piece in pieces:
                write((piece, timestamps[done : done + len(piece)]))
                done += len(piece)
                del piece  # it is the writer's now
