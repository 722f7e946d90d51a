"""Upscales video files to video files, in bounded host memory: one after the other, and each scene by itself."""

import dataclasses
import os
import shutil
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from star_jax.checkpoints.directory import checkpoint_path, read_config
from star_jax.errors import InputError
from star_jax.files import parse_bytes, real_path
from star_jax.inference.batch import Batch, Summary
from star_jax.inference.compile_cache import use_compile_cache
from star_jax.inference.display import RunProgress
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
from star_jax.inference.memory import plan_memory
from star_jax.inference.overlap import WriteBehind, read_ahead
from star_jax.inference.pipeline import StarPipeline
from star_jax.inference.resume import Kept, file_stamp, work_folder
from star_jax.inference.scenes import Scene, SceneReader, find_cuts, read_cuts, scenes_between
from star_jax.inference.settings import UpscaleSettings
from star_jax.models.architectures import build_model
from star_jax.models.video_model import VideoModel
from star_jax.ops.attention import AttentionKernels
from star_jax.presets import BUNDLED
from star_jax.video.encoders import Quality
from star_jax.video.images import DEFAULT_FRAME_RATE, is_images, open_target

AnyPath = str | os.PathLike
_READ_AT_ONCE = 8  # frames, while cuts are looked for
_VERSIONS = ("star_jax", "jax", "jaxlib")


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
      frames: length to upscale, in frames or as a time.
      scene_cuts: `auto` finds them, `off` takes a clip for one scene; else a file, see `read_cuts`.
      recursive: look for videos in folders of folders, too.
      skip_existing: skip inputs whose output exists.
      overwrite: replace outputs without a line that says so.
      resume: go on with an earlier run, and keep finished work until the output is complete.
      truth: ground truth that the output of a single input is to be compared with: checked for its size and length.
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
    if resolution is not None and resolution < 1:
        raise InputError(f"--resolution is {resolution}; choose pixels of the shorter side, such as 1080")
    sources = find_sources([inputs] if isinstance(inputs, AnyPath) else inputs, recursive=recursive)
    outputs = output_paths(sources, os.fspath(output))
    if frame_rate and not any(is_images(source.path) for source in sources):
        raise InputError("--frame-rate applies to folders of images; a video keeps its own")
    upscaler = _Upscaler(
        checkpoint=checkpoint,
        model=model,
        attention=attention,
        budget=parse_bytes(max_memory, "--max-memory") if isinstance(max_memory, str) else max_memory,
        cuts=given_cuts(scene_cuts, num_inputs=len(sources)),
        resume=resume,
        quality=quality,
    )

    def open_job(source: Source, target: Path) -> Job:
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
            },
        )
        if truth:
            check_comparison(job, truth, num_inputs=len(sources))
        return job

    batch = Batch(sources, outputs, open_job, skip_existing=skip_existing)
    check_outputs(sources, outputs, truth)
    use_compile_cache(compile_cache)
    return batch.run(upscaler, show=progress, overwrite=overwrite)


@dataclass
class _Upscaler:
    """Upscales one clip after the other; the model is loaded for the first one that can be upscaled.

    Attributes:
      checkpoint, attention: see `StarPipeline.from_pretrained`.
      model: model of the checkpoint, in the dtype that it runs in.
      budget: bytes to use at most, or None.
      cuts: numbers of the frames that begin a scene; None to look for them.
      resume: see `work_folder`.
      quality: coding of outputs.
    """

    checkpoint: AnyPath
    model: VideoModel
    attention: str
    budget: int | None
    cuts: list[int] | None
    resume: bool
    quality: Quality

    @cached_property
    def pipeline(self) -> StarPipeline:
        """The model."""
        dtypes: dict[str, Any] = {"dtype": self.model.dtype, "vae_dtype": self.model.vae_dtypes}
        return StarPipeline.from_pretrained(self.checkpoint, attention=self.attention, **dtypes)

    def __call__(self, job: Job, progress: RunProgress) -> UpscaleSettings:
        """Upscales a clip, and returns the settings with the tiles and the window that fit."""
        with closing(SceneReader(job.reader)) as frames:
            return self._upscale(job, frames, progress)

    def _upscale(self, job: Job, frames: SceneReader, progress: RunProgress) -> UpscaleSettings:
        scenes = self._scenes(job, frames, progress)
        longest = max(scene.num_frames for scene in scenes)
        plan = plan_memory(self.model, job.settings, longest, job.size, budget=self.budget)
        height, width = plan.settings.target_size(*job.size)
        several = f" in {len(scenes)} scenes" if len(scenes) > 1 else ""
        size = f"{job.info.width}x{job.info.height} to {width}x{height}"
        progress.say(f"{job.info.path}: {job.num_frames} frames{several}, {size}")
        progress.say(plan.describe())
        progress.load()
        pipeline = self.pipeline
        with_frames = _has_room(job, height * width)
        if self.resume and not with_frames:
            progress.say("the disk has little room: latents are kept for resuming, finished frames are not")
        description = self._description(job, scenes, plan.settings)
        with work_folder(job.target, description, resume=self.resume, with_frames=with_frames) as kept:
            upscale_video(pipeline, job, frames, scenes, plan.settings, kept, progress, self.quality)
        return plan.settings

    def _scenes(self, job: Job, frames: SceneReader, progress: RunProgress) -> list[Scene]:
        cuts = self.cuts
        if cuts is None:
            whole = Scene(*job.frames)
            with closing(_counted(frames.read(whole, _READ_AT_ONCE), progress)) as pieces:
                cuts = [whole.start + cut for cut in find_cuts(pieces)]
        return scenes_between(cuts, *job.frames)

    def _description(self, job: Job, scenes: list[Scene], settings: UpscaleSettings) -> dict[str, Any]:
        """All that the frames depend on, as `work_folder` compares it."""
        vae = [str(dtype) for dtype in self.model.vae_dtypes]
        return {
            "input": file_stamp(job.info.path),
            "reading": dataclasses.asdict(job.info),
            "scenes": [dataclasses.astuple(scene) for scene in scenes],
            "settings": dataclasses.asdict(settings),
            "checkpoint": file_stamp(checkpoint_path(self.checkpoint)),
            "dtype": str(self.model.dtype),
            "attention": self.attention,
            **(
                {} if set(vae) == {"float32"} else {"vae_dtypes": vae}
            ),  # work begun before there was a choice
            "device": jax.devices()[0].device_kind,
            "versions": {name: metadata.version(name) for name in _VERSIONS},
        }


def upscale_video(
    pipeline: StarPipeline,
    job: Job,
    frames: SceneReader,
    scenes: Sequence[Scene],
    settings: UpscaleSettings,
    kept: Kept,
    progress: RunProgress,
    quality: Quality,
) -> None:
    """Upscales a clip scene by scene into a file, keeping its timing, sound and subtitles.

    The clip is read twice, a few frames at a time: once to encode it, once more for the colour fix while the result
    is decoded and written. Reading and writing go on in threads while the device works.

    Args:
      pipeline: a loaded model.
      job: the clip and its output.
      frames: reader of the clip's frames.
      scenes: scenes to upscale, in order.
      settings: see `UpscaleSettings`.
      kept: work that an earlier run has done.
      progress: display that receives the state of each stage.
      quality: coding of the output.

    Raises:
      InputError: the output cannot be written there, or the prompt cannot be used.
      RunError: a damaged input, a full disk, non-finite numbers.
    """
    info, (height, width) = job.written, settings.target_size(*job.size)
    target = open_target(
        job.output, width=width, height=height, frame_rate=info.frame_rate, quality=quality, source=info
    )
    with target as writer, WriteBehind[Any](lambda piece: writer.write(*piece)) as write:
        for scene in scenes:
            done = scene.start
            part = kept.part(f"{scene.start:07d}")
            with closing(
                _scene_pieces(pipeline, frames, scene, job.size, settings, part, progress)
            ) as pieces:
                for piece in pieces:
                    write((piece, frames.times_of(done, done + len(piece))))
                    done += len(piece)
                    progress.advance("decode", done - job.frames[0])
                    del piece  # it is the writer's now
        write.wait()


def _scene_pieces(
    pipeline: StarPipeline,
    frames: SceneReader,
    scene: Scene,
    size: tuple[int, int],
    settings: UpscaleSettings,
    kept: Kept,
    progress: RunProgress,
) -> Generator[np.ndarray, None, None]:
    """Yields a scene's upscaled frames: those that were kept, then those that are made now."""
    before = {stage: progress.done(stage) for stage in ("encode", "sample")}

    def advance(stage: str, done: int, total: int) -> None:
        if stage in before:
            progress.advance(stage, before[stage] + scene.num_frames * done / total)

    number = 0
    while (piece := kept.load(f"frames.{number}")) is not None:
        yield piece
        number += len(piece)
    for stage in before:
        if number == scene.num_frames:
            advance(stage, 1, 1)
    if number < scene.num_frames:
        with ExitStack() as readers:
            for piece in pipeline.stream(
                lambda count: readers.enter_context(closing(read_ahead(frames.read(scene, count)))),
                scene.num_frames,
                size,
                settings,
                on_progress=advance,
                kept=kept,
                skip=number,
            ):
                kept.save_frames(f"frames.{number}", piece)
                yield piece
                number += len(piece)
    kept.drop("latents")


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


def _counted(pieces: Iterator[np.ndarray], progress: RunProgress) -> Generator[np.ndarray, None, None]:
    done = 0
    with closing(read_ahead(pieces)) as ahead:
        for piece in ahead:
            yield piece
            done += len(piece)
            progress.advance("read", done)


def _has_room(job: Job, pixels: int) -> bool:
    """Whether the disk holds the finished frames beside the output, with as much again left."""
    free = shutil.disk_usage(real_path(job.target).parent).free
    return free > 2 * 3 * pixels * job.num_frames
