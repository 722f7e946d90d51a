"""Speed of the whole pipeline by stage, from frames to frames."""

import statistics
import time
from typing import Any

import numpy as np

from star_jax.benchmark.quiet import quiet
from star_jax.benchmark.report import memory
from star_jax.inference.memory import plan_memory
from star_jax.inference.pipeline import StarPipeline
from star_jax.inference.settings import UpscaleSettings

SCALE = 4


def measure_pipeline(
    pipeline: StarPipeline,
    num_frames: int,
    size: tuple[int, int],
    *,
    num_inference_steps: int = 15,
    budget: int | None = None,
    repeats: int = 5,
) -> dict[str, Any]:
    """Upscales a clip of noise several times with the planned settings; the first run compiles.

    Args:
      pipeline: the pipeline.
      num_frames: number of frames of the clip.
      size: (height, width) of the result in pixels.
      num_inference_steps: number of sampling steps.
      budget: bytes that the plan may use; None for the device's memory.
      repeats: number of measured runs.

    Returns:
      Times, the plan and memory; `compile_seconds` is the time of the first run beyond the median of the others,
      for tracing, compilation and other one-time work.
    """
    height, width = size
    frames = _noise_clip(num_frames, height // SCALE, width // SCALE)
    plan = plan_memory(
        pipeline.model,
        UpscaleSettings(scale=SCALE, num_inference_steps=num_inference_steps),
        len(frames),
        frames.shape[1:3],
        budget=budget,
    )
    runs = [_run(pipeline, frames, plan.settings)]
    with quiet():
        runs += [_run(pipeline, frames, plan.settings) for _ in range(repeats)]
    totals = [sum(run.values()) for run in runs]
    seconds = statistics.median(totals[1:])
    stages = {name: statistics.median(run[name] for run in runs[1:]) for name in runs[0]}
    return {
        "seconds_per_step": seconds,
        "spread": (max(totals[1:]) - min(totals[1:])) / seconds,
        "step_seconds": totals[1:],
        "stage_seconds": stages,
        "compile_seconds": totals[0] - seconds,
        "first_step_seconds": totals[0],
        "seconds_per_frame": seconds / num_frames,
        "frames_per_second": num_frames / seconds,
        "tflop_compiled": None,  # several programs, some of them loops
        "plan": plan.describe(),
        "planned_bytes": plan.peak,
        **memory(None),
    }


def _noise_clip(num_frames: int, height: int, width: int) -> np.ndarray:
    """A clip of noise, uint8 [F, H, W, 3]."""
    return np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), np.uint8)


def _run(pipeline: StarPipeline, frames: np.ndarray, settings: UpscaleSettings) -> dict[str, float]:
    """Seconds of each stage of one upscale, from frames to frames in host memory."""
    stages, last = {"encode": 0.0, "sample": 0.0, "decode": 0.0}, time.perf_counter()

    def on_progress(stage: str, done: int, total: int) -> None:
        nonlocal last
        now = time.perf_counter()
        stages[stage] += now - last
        last = now

    def read(size: int):
        return (frames[start : start + size] for start in range(0, len(frames), size))

    for _ in pipeline.stream(read, len(frames), frames.shape[1:3], settings, on_progress=on_progress):
        pass
    return stages
