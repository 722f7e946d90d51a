"""Upscales files into files, one after the other: every check first, then the work."""

import dataclasses
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from star_jax.checkpoints.directory import read_config
from star_jax.errors import InputError
from star_jax.files import parse_bytes
from star_jax.inference.batch import Batch, Summary
from star_jax.inference.compile_cache import use_compile_cache
from star_jax.inference.jobs import (
    Job,
    Part,
    Source,
    check_comparison,
    check_outputs,
    find_sources,
    make_job,
    output_paths,
)
from star_jax.inference.opening import Opening
from star_jax.inference.scenes import read_cuts
from star_jax.inference.settings import UpscaleSettings
from star_jax.inference.upscaler import Upscaler
from star_jax.models.architectures import build_model
from star_jax.ops.attention import AttentionKernels
from star_jax.presets import BUNDLED
from star_jax.video.encoders import Quality
from star_jax.video.images import DEFAULT_FRAME_RATE, is_images

AnyPath = str | os.PathLike


def upscale(
    inputs: AnyPath | Sequence[AnyPath],
    output: AnyPath,
    *,
    checkpoint: AnyPath = BUNDLED,
    resolution: int | None = None,
    frame_rate: Fraction | None = None,
    start: str | None = None,
    frames: str | None = None,
    scene_cuts: AnyPath = "auto",
    recursive: bool = False,
    skip_existing: bool = False,
    overwrite: bool = False,
    resume: bool = True,
    truth: AnyPath | None = None,
    color_source: str = "input",
    dtype: str = "auto",
    attention: str = "auto",
    vae_dtype: str = "auto",
    max_memory: int | str | None = None,
    compile_cache: AnyPath | None = None,
    crf: float = 17,
    preset: str = "medium",
    codec: str | None = None,
    pixel_format: str | None = None,
    bit_depth: int | None = None,
    strict: bool = False,
    deinterlace: str = "auto",
    progress: str = "auto",
    **settings: Any,
) -> Summary:
    """Upscales videos, images and folders of these into files that appear when they are complete.

    Everything that can be checked is checked before the model is loaded. A run that was interrupted or killed, or
    whose disk was full, goes on where it was when it is called again with the same arguments.

    Args:
      inputs: one path or several: videos, images, folders of images, folders of videos.
      output: a file (.mp4, .mov, .mkv, or .png of one image), a pattern such as folder/%05d.png for a clip's frames
        or out/{name}_x4.mkv for several clips, or a folder.
      checkpoint: directory made by `star_jax.convert`; by default tiny-star, the small model in the package.
      resolution: pixels of the output's shorter side, in place of the setting `scale`.
      frame_rate: frame rate of folders of images; 24 by default.
      start: first frame to upscale, as a number or a time such as "2.5s" or "1:02:03".
      frames: how much to upscale, in frames or as a time.
      scene_cuts: `auto` finds them, `off` takes a clip for one scene; else a file, see `read_cuts`.
      recursive: look for videos in folders of folders, too.
      skip_existing: skip inputs whose output exists.
      overwrite: replace outputs that exist without a warning.
      resume: go on with an earlier run, and keep finished work until the output is complete.
      truth: ground truth that the output of a single input is to be compared with: checked for its size and length.
      color_source: where the colour fix takes colours from: `input`, or `truth`, as the released script of STAR on
        CogVideoX does.
      dtype: `float32`, `bfloat16`, `float16` or `auto`, see `StarPipeline.from_pretrained`.
      attention: kernel of every attention site, see `star_jax.ops.attention`.
      vae_dtype: dtype of the autoencoder, likewise.
      max_memory: largest amount of memory to use, in bytes or as "12GiB"; by default all that the device has.
      compile_cache: folder of compiled programs; None is ~/.cache/star_jax, "" keeps none.
      crf: x264's constant rate factor, 0 (lossless) to 51.
      preset: x264's preset.
      codec, pixel_format, bit_depth: coding of the output, see `star_jax.video.encoders`; by default H.264, and
        HEVC of 10 or 12 bits where the input has more than 8.
      strict: refuse damaged inputs, whose damaged frames are otherwise left out.
      deinterlace: `auto` (frames that are flagged as interlaced), `on` or `off`.
      progress: `auto`, `json` or `none`, see `RunProgress`.
      **settings: see `UpscaleSettings`; the checkpoint's own defaults come before those.

    Returns:
      The outcome of every input. An input that fails does not end a run over several.

    Raises:
      InputError: a single input, an output or a setting that cannot be used, or too little memory.
      RunError: with a single input: it is damaged, the disk is full, or numbers are not finite.
    """
    config = read_config(checkpoint)
    kernels = AttentionKernels.all(attention)
    model = build_model(config, dtype=dtype, kernels=kernels, vae_dtype=vae_dtype)
    quality = Quality(crf, preset, codec, pixel_format, bit_depth)
    chosen = UpscaleSettings(**{**dataclasses.asdict(config.sampling), **settings})
    chosen.check_tiles(model.size_rule)
    if color_source not in ("input", "truth"):
        raise InputError(f"--color-source is {color_source!r}; choose input or truth")
    if color_source == "truth" and truth is None:
        raise InputError("--color-source is truth, but there is no ground truth; name it with --compare")
    if color_source == "truth" and chosen.strength < 1:
        raise InputError(
            f"--strength is {chosen.strength}, which mixes with the input; with --color-source truth choose 1"
        )
    if resolution is not None and resolution < 1:
        raise InputError(f"--resolution is {resolution}; choose pixels of the shorter side, such as 1080")
    sources = find_sources([inputs] if isinstance(inputs, AnyPath) else inputs, recursive=recursive)
    outputs = output_paths(sources, os.fspath(output))
    if frame_rate and not any(is_images(source.path) for source in sources):
        raise InputError("--frame-rate applies to folders of images; a video keeps its own")
    upscaler = Upscaler(
        checkpoint=checkpoint,
        model=model,
        attention=attention,
        budget=parse_bytes(max_memory, "--max-memory") if isinstance(max_memory, str) else max_memory,
        cuts=given_cuts(scene_cuts, num_inputs=len(sources)),
        resume=resume,
        quality=quality,
        colors=truth if color_source == "truth" else None,
    )

    opening = Opening(progress, len(sources))

    def open_job(source: Source, target: Path) -> Job:
        with opening.of(source.path):
            job = make_job(
                source,
                target,
                chosen,
                resolution=resolution,
                part=Part(start, frames),
                reading={
                    "frame_rate": frame_rate or DEFAULT_FRAME_RATE,
                    "depth": None,  # as deep as the input
                    "strict": strict,
                    "deinterlace": deinterlace,
                    "on_scan": opening.advance,
                },
            )
        if truth:
            check_comparison(job, truth, num_inputs=len(sources))
        return job

    batch = Batch(sources, outputs, open_job, skip_existing=skip_existing)
    check_outputs(sources, outputs, truth)
    use_compile_cache(compile_cache)
    return batch.run(upscaler, show=progress, overwrite=overwrite)


def given_cuts(scene_cuts: AnyPath, *, num_inputs: int) -> list[int] | None:
    """The cuts that the option names: None where they are to be looked for.

    Raises:
      InputError: a file that cannot be read, or one for several inputs.
    """
    if scene_cuts == "auto":
        return None
    if scene_cuts == "off":
        return []
    if num_inputs > 1:
        raise InputError("--scene-cuts FILE applies to a single input; several take auto or off")
    return read_cuts(Path(scene_cuts))
