"""Upscales files one after the other; all checks come before the work."""

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
    """Upscales videos, images, and folders of videos or images into files that appear when they are complete.

    Everything that can be checked is checked before the model is loaded. A run that was interrupted or killed, or
    whose disk was full, resumes when this function is called again with the same arguments.

    Args:
      inputs: one path or several: videos, images, folders of images, folders of videos.
      output: a file (.mp4, .mov, .mkv, or .png for one image), a pattern such as folder/%05d.png for a clip's
        frames or out/{name}_x4.mkv for several clips, or a folder.
      checkpoint: directory made by `star_jax.convert`; by default tiny-star, the small model in the package.
      resolution: pixels of the output's shorter side, instead of the setting `scale`.
      frame_rate: frame rate of folders of images; 24 by default.
      start: first frame to upscale, as a number or a time such as "2.5s" or "1:02:03".
      frames: length of the part to upscale, as a number of frames or a time.
      scene_cuts: `auto` finds scene cuts, `off` treats a clip as one scene; or a file of cuts, see `read_cuts`.
      recursive: whether to look for videos in subfolders.
      skip_existing: skip inputs whose output exists.
      overwrite: replace existing outputs without a warning.
      resume: continue an earlier run, and keep finished work until the output is complete.
      truth: ground truth to compare the output of a single input with; its size and length are checked here.
      color_source: source of the colours for the colour fix: `input`, or `truth` as in the released script of STAR
        on CogVideoX.
      dtype: `float32`, `bfloat16`, `float16` or `auto`; see `StarPipeline.from_pretrained`.
      attention: kernel of every attention layer; see `star_jax.ops.attention`.
      vae_dtype: dtype of the autoencoder; see `StarPipeline.from_pretrained`.
      max_memory: largest amount of memory to use, in bytes or as "12GiB"; by default all that the device has.
      compile_cache: folder of compiled programs; None is ~/.cache/star_jax, and "" disables the cache.
      crf: x264's constant rate factor, 0 (lossless) to 51.
      preset: x264's preset.
      codec, pixel_format, bit_depth: coding of the output; see `star_jax.video.encoders`. The default is H.264, or
        HEVC with 10 or 12 bits if the input has more than 8.
      strict: reject damaged inputs instead of leaving out their damaged frames.
      deinterlace: `auto` (frames that are flagged as interlaced), `on` or `off`.
      progress: `auto`, `json` or `none`; see `RunProgress`.
      **settings: see `UpscaleSettings`; a checkpoint may have other defaults.

    Returns:
      The outcome of every input. With several inputs, one that fails does not end the run.

    Raises:
      InputError: the only input, an output or a setting cannot be used, or there is too little memory.
      RunError: the only input is damaged, the disk is full, or values are not finite.
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
        raise InputError("--color-source is truth, but there is no ground truth; give it with --compare")
    if color_source == "truth" and chosen.strength < 1:
        raise InputError(
            f"--strength is {chosen.strength}, which blends in the input; with --color-source truth, choose 1"
        )
    if resolution is not None and resolution < 1:
        raise InputError(
            f"--resolution is {resolution}; choose the pixels of the output's shorter side, such as 1080"
        )
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
    """The cuts that the option gives; None if they must be found.

    Raises:
      InputError: a file cannot be read, or is given for several inputs.
    """
    if scene_cuts == "auto":
        return None
    if scene_cuts == "off":
        return []
    if num_inputs > 1:
        raise InputError("--scene-cuts FILE applies to a single input; with several, choose auto or off")
    return read_cuts(Path(scene_cuts))
