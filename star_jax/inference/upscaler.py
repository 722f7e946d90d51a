"""Upscales one clip into one file, scene by scene, in bounded host memory."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from star_jax.checkpoints.directory import checkpoint_path
from star_jax.files import real_path
from star_jax.inference.coding import ReadPieces
from star_jax.inference.display import RunProgress
from star_jax.inference.jobs import Job
from star_jax.inference.memory import plan_memory
from star_jax.inference.overlap import WriteBehind, read_ahead
from star_jax.inference.pipeline import StarPipeline
from star_jax.inference.resume import Kept, file_stamp, work_folder
from star_jax.inference.scenes import Scene, SceneReader, common_lengths, find_cuts, scenes_between
from star_jax.inference.settings import UpscaleSettings
from star_jax.models.video_model import VideoModel
from star_jax.video.encoders import Quality
from star_jax.video.images import open_source, open_target

AnyPath = str | os.PathLike
ReadScene = Callable[[int], Generator[np.ndarray, None, None]]  # (frames per piece) -> pieces
_READ_AT_ONCE = 8  # number of frames read at once while searching for cuts
_VERSIONS = ("star_jax", "jax", "jaxlib")


@dataclass
class Upscaler:
    """Upscales one clip after another; the model is loaded for the first clip that can be upscaled.

    Attributes:
      checkpoint, attention: see `StarPipeline.from_pretrained`.
      model: model of the checkpoint, with the dtype in which it runs.
      budget: largest number of bytes to use; None is all that the device has.
      cuts: numbers of the frames that begin a scene; None finds them.
      resume: see `work_folder`.
      quality: coding of outputs.
      colors: video or images, frame by frame, that the outputs' colours come from; None takes the input.
    """

    checkpoint: AnyPath
    model: VideoModel
    attention: str
    budget: int | None
    cuts: list[int] | None
    resume: bool
    quality: Quality
    colors: AnyPath | None = None

    @cached_property
    def pipeline(self) -> StarPipeline:
        """The pipeline with the loaded model."""
        dtypes: dict[str, Any] = {"dtype": self.model.dtype, "vae_dtype": self.model.vae_dtypes}
        return StarPipeline.from_pretrained(self.checkpoint, attention=self.attention, **dtypes)

    def __call__(self, job: Job, progress: RunProgress) -> UpscaleSettings:
        """Upscales a clip; returns the settings, including the tiles and the window that fit."""
        with closing(SceneReader(job.reader)) as frames:
            return self._upscale(job, frames, progress)

    def _upscale(self, job: Job, frames: SceneReader, progress: RunProgress) -> UpscaleSettings:
        scenes = self._scenes(job, frames, progress)
        lengths = common_lengths(scenes)
        plan = plan_memory(self.model, job.settings, max(lengths), job.size, budget=self.budget)
        height, width = plan.settings.target_size(*job.size)
        several = f" in {len(scenes)} scenes" if len(scenes) > 1 else ""
        size = f"{job.info.width}x{job.info.height} to {width}x{height}"
        progress.say(f"{job.info.path}: {job.num_frames} frames{several}, {size}")
        if len(set(lengths)) < len({scene.num_frames for scene in scenes}):
            progress.say(
                f"scenes are padded to {len(set(lengths))} different lengths, and each length is compiled once"
            )
        progress.say(plan.describe())
        progress.load()
        pipeline = self.pipeline
        with_frames = _has_room(job, height * width)
        if self.resume and not with_frames:
            progress.say(
                "the disk has little free space: latents are kept for resuming, but finished frames are not"
            )
        description = self._description(job, scenes, lengths, plan.settings)
        with (
            work_folder(job.target, description, resume=self.resume, with_frames=with_frames) as kept,
            self._open_colors() as colors,
        ):
            upscale_video(
                pipeline, job, frames, scenes, lengths, plan.settings, kept, progress, self.quality, colors
            )
        return plan.settings

    def _open_colors(self) -> AbstractContextManager[SceneReader | None]:
        return nullcontext() if self.colors is None else closing(SceneReader(open_source(self.colors)))

    def _scenes(self, job: Job, frames: SceneReader, progress: RunProgress) -> list[Scene]:
        cuts = self.cuts
        if cuts is None:
            whole = Scene(*job.frames)
            with closing(_counted(frames.read(whole, _READ_AT_ONCE), progress)) as pieces:
                cuts = [whole.start + cut for cut in find_cuts(pieces)]
        return scenes_between(cuts, *job.frames)

    def _description(
        self, job: Job, scenes: list[Scene], lengths: list[int], settings: UpscaleSettings
    ) -> dict[str, Any]:
        """Everything that the frames depend on, for `work_folder` to compare."""
        vae = [str(dtype) for dtype in self.model.vae_dtypes]
        return {
            "input": file_stamp(job.info.path),
            "reading": dataclasses.asdict(job.info),
            "scenes": [
                (scene.start, scene.stop, *[length] * (length > scene.num_frames))
                for scene, length in zip(scenes, lengths, strict=True)
            ],
            "settings": dataclasses.asdict(settings),
            "checkpoint": file_stamp(checkpoint_path(self.checkpoint)),
            "dtype": str(self.model.dtype),
            "attention": self.attention,
            # Left out for float32, as in work that was begun before there was a choice.
            **({} if set(vae) == {"float32"} else {"vae_dtypes": vae}),
            **({} if self.colors is None else {"colors": file_stamp(Path(self.colors))}),
            "device": jax.devices()[0].device_kind,
            "versions": {name: metadata.version(name) for name in _VERSIONS},
        }


def upscale_video(
    pipeline: StarPipeline,
    job: Job,
    frames: SceneReader,
    scenes: Sequence[Scene],
    lengths: Sequence[int],
    settings: UpscaleSettings,
    kept: Kept,
    progress: RunProgress,
    quality: Quality,
    colors: SceneReader | None = None,
) -> None:
    """Upscales a clip scene by scene into a file, keeping its timing, sound and subtitles.

    The clip is read twice, a few frames at a time: first to encode it, then for the colour fix while the result is
    decoded and written. Threads read and write while the device works.

    Args:
      pipeline: a loaded model.
      job: the clip and its output.
      frames: reader of the clip's frames.
      scenes: scenes to upscale, in order.
      lengths: number of frames to which each scene is padded; see `common_lengths`.
      settings: see `UpscaleSettings`.
      kept: store of finished work, which may have that of an earlier run.
      progress: shows the progress of each stage.
      quality: coding of the output.
      colors: reader of the clip that colours come from; its first frame belongs to the output's first.

    Raises:
      InputError: the output cannot be written, or the prompt cannot be used.
      RunError: the input is damaged, the disk is full, or values are not finite.
    """
    info, (height, width) = job.written, settings.target_size(*job.size)
    target = open_target(
        job.output, width=width, height=height, frame_rate=info.frame_rate, quality=quality, source=info
    )
    with target as writer, WriteBehind[Any](lambda piece: writer.write(*piece)) as write:
        for scene, length in zip(scenes, lengths, strict=True):
            done = scene.start
            part = kept.part(f"{scene.start:07d}")
            of_colors = Scene(scene.start - job.frames[0], scene.stop - job.frames[0])
            with closing(
                _scene_pieces(
                    pipeline,
                    frames,
                    scene,
                    length,
                    job.size,
                    settings,
                    part,
                    progress,
                    None if colors is None else partial(colors.read, of_colors),
                )
            ) as pieces:
                for piece in pieces:
                    write((piece, frames.times_of(done, done + len(piece))))
                    done += len(piece)
                    progress.advance("decode", done - job.frames[0])
                    del piece  # the writer has it now
        write.wait()


def _scene_pieces(
    pipeline: StarPipeline,
    frames: SceneReader,
    scene: Scene,
    length: int,
    size: tuple[int, int],
    settings: UpscaleSettings,
    kept: Kept,
    progress: RunProgress,
    colors: ReadScene | None,
) -> Generator[np.ndarray, None, None]:
    """Yields a scene's upscaled frames: first those that an earlier run kept, then new ones."""
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

            def reading(read: ReadScene) -> ReadPieces:
                return lambda count: readers.enter_context(
                    closing(read_ahead(_lengthened(read(count), length - scene.num_frames)))
                )

            for piece in pipeline.stream(
                reading(partial(frames.read, scene)),
                length,
                size,
                settings,
                on_progress=advance,
                kept=kept,
                skip=number,
                read_colors=None if colors is None else reading(colors),
            ):
                piece = piece[: scene.num_frames - number]
                if len(piece):
                    kept.save_frames(f"frames.{number}", piece)
                    yield piece
                    number += len(piece)
    kept.drop("latents")


def _lengthened(pieces: Generator[np.ndarray, None, None], missing: int) -> Generator[np.ndarray, None, None]:
    """Yields the same pieces, then `missing` copies of the last frame."""
    last = np.empty(0)
    with closing(pieces):
        for piece in pieces:
            last = piece[-1:]
            yield piece
            del piece
    if missing:
        yield np.repeat(last, missing, axis=0)


def _counted(pieces: Iterator[np.ndarray], progress: RunProgress) -> Generator[np.ndarray, None, None]:
    done = 0
    with closing(read_ahead(pieces)) as ahead:
        for piece in ahead:
            yield piece
            done += len(piece)
            progress.advance("read", done)


def _has_room(job: Job, pixels: int) -> bool:
    """Whether the disk has twice the space that the finished frames of the output need."""
    free = shutil.disk_usage(real_path(job.target).parent).free
    return free > 2 * 3 * pixels * job.num_frames
