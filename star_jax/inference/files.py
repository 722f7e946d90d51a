"""Upscales a video file to a video file, in bounded host memory."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from star_jax.inference.overlap import read_ahead, write_behind
from star_jax.inference.pipeline import OnProgress, StarPipeline
from star_jax.inference.settings import UpscaleSettings
from star_jax.video.images import ImageSequenceReader, open_target
from star_jax.video.reader import VideoReader


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
