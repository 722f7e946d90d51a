"""Measures the time of loading training data on one core, by stage, and how many cores can feed an accelerator."""

import contextlib
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from star_jax.data.clips import load_element
from star_jax.data.config import DataConfig
from star_jax.data.made_up.synthetic import SyntheticVideo
from star_jax.data.sources import open_source
from star_jax.data.stopwatch import Stopwatch
from star_jax.environment import describe, peak_host_bytes


@contextlib.contextmanager
def synthetic_videos(height: int, width: int, num_frames: int, count: int = 3) -> Iterator[str]:
    """A temporary folder of synthetic H.264 files, so that decoding is measured, too."""
    with tempfile.TemporaryDirectory() as folder:
        for index in range(count):
            _write_video(Path(folder) / f"{index}.mp4", SyntheticVideo(index, height, width, num_frames))
        yield folder


def _write_video(path: Path, video: SyntheticVideo) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "veryfast", "crf": "18"})
        stream.height, stream.width, stream.pix_fmt = video.height, video.width, "yuv420p"
        for number in range(video.num_frames):
            picture = av.VideoFrame.from_ndarray(video.frame(number), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def measure(
    config: DataConfig, *, num_clips: int, batch_size: int, seconds_per_step: float
) -> dict[str, Any]:
    """Loads clips one after the other in this process, on one thread, and sums the CPU time of each stage.

    Args:
      config: the data.
      num_clips: number of clips to measure; as degradations are random, about a dozen give a good mean.
      batch_size: clips per step of one accelerator.
      seconds_per_step: time of a step of one accelerator.

    Returns:
      `seconds_per_frame` (CPU time from decoding to batch), `stages` (name -> seconds per frame),
      `slowest_clip_seconds_per_frame`, `cores_per_accelerator`, `element_bytes`, `buffered_bytes`,
      `peak_host_bytes`, and the environment.

    Raises:
      InputError: no usable source.
      BadClipError: a clip is unusable.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    records = open_source(config.source, height=config.height, width=config.width)
    load_element(records[0], config, 0)  # warm-up, which makes tables and loads libraries
    stopwatch, totals = Stopwatch(), []
    started = time.perf_counter()
    for index in range(num_clips):
        before = time.process_time()
        element = load_element(records[index % len(records)], config, index, stopwatch)
        with stopwatch("batch"):
            for value in element.values():
                np.stack([value])
        totals.append((time.process_time() - before) / config.num_frames)
    cv2.setNumThreads(threads)
    frames = num_clips * config.num_frames
    stages = {name: seconds / frames for name, seconds in stopwatch.seconds.items()}
    seconds_per_frame = float(np.mean(totals))
    stages["other"] = seconds_per_frame - sum(stages.values())
    per_step = batch_size * config.num_frames * seconds_per_frame
    return {
        "seconds_per_frame": seconds_per_frame,
        "wall_seconds_per_frame": (time.perf_counter() - started) / frames,
        "slowest_clip_seconds_per_frame": float(np.max(totals)),
        "stages": stages,
        "recipe": config.recipe,
        "frame_size": [config.height, config.width],
        "num_clips": num_clips,
        "num_frames": config.num_frames,
        "batch_size": batch_size,
        "seconds_per_step": seconds_per_step,
        "cores_per_accelerator": math.ceil(per_step / seconds_per_step),
        "element_bytes": config.element_bytes,
        "buffered_bytes": config.buffered_bytes,
        "peak_host_bytes": peak_host_bytes(),
        **describe(),
    }
