"""VMAF v0.6.1 (Netflix), from an FFmpeg with libvmaf: the one in PATH, or the one in the package imageio-ffmpeg."""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from queue import Queue

import numpy as np

from star_jax.errors import InputError, RunError
from star_jax.evaluation.metrics.metric import Metric

_FRAMES_AHEAD = 4


@functools.cache
def ffmpeg_with_vmaf() -> str:
    """Path of an FFmpeg that has libvmaf.

    Raises:
      InputError: there is no such FFmpeg.
    """
    candidates = [shutil.which("ffmpeg")]
    try:
        import imageio_ffmpeg

        candidates.append(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):  # not installed, or no program for this machine
        pass
    for program in filter(None, candidates):
        filters = subprocess.run([program, "-hide_banner", "-filters"], capture_output=True, text=True)
        if " libvmaf " in filters.stdout:
            return program
    raise InputError("found no FFmpeg with libvmaf; pip install imageio-ffmpeg (part of star_jax[metrics])")


class VmafScorer:
    """Feeds frames and ground truth to FFmpeg as they arrive; it returns the values at the end of the clip."""

    def __init__(self, model: str):
        self._program = ffmpeg_with_vmaf()
        self._model = model
        self._folder = tempfile.TemporaryDirectory(prefix="star_jax_vmaf_")
        self._process: subprocess.Popen | None = None
        self._feeders: list[_Feeder] = []

    def add(self, frames: np.ndarray, truths: np.ndarray) -> list[float]:
        if self._process is None:
            self._start(frames.shape[2], frames.shape[1])
        for feeder, pixels in zip(self._feeders, (frames, truths), strict=True):
            for frame in pixels:
                feeder.queue.put(np.ascontiguousarray(frame).tobytes())
        return []

    def finish(self) -> list[float]:
        for feeder in self._feeders:
            feeder.close()
        assert self._process is not None  # a clip has frames
        _, errors = self._process.communicate()
        log = Path(self._folder.name) / "vmaf.json"
        if self._process.returncode or not log.exists():
            last = errors.decode(errors="replace").strip().splitlines()[-1:]
            raise RunError(f"FFmpeg failed to compute VMAF: {' '.join(last)}; check {self._program}")
        values = [frame["metrics"]["vmaf"] for frame in json.loads(log.read_text())["frames"]]
        self._folder.cleanup()
        return values

    def _start(self, width: int, height: int) -> None:
        pipes = [os.pipe(), os.pipe()]
        raw = [
            "-f",
            "rawvideo",
            "-pixel_format",
            "rgb24",
            "-video_size",
            f"{width}x{height}",
            "-framerate",
            "24",
        ]
        inputs = [argument for read, _ in pipes for argument in (*raw, "-i", f"pipe:{read}")]
        graph = (
            "[0:v]format=yuv444p[a];[1:v]format=yuv444p[b];"
            f"[a][b]libvmaf=model=version={self._model}:log_fmt=json:log_path=vmaf.json"
        )
        command = [self._program, "-hide_banner", "-loglevel", "error", "-nostdin", *inputs]
        self._process = subprocess.Popen(
            [*command, "-lavfi", graph, "-f", "null", "-"],
            cwd=self._folder.name,
            pass_fds=[read for read, _ in pipes],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for read, _ in pipes:
            os.close(read)
        self._feeders = [_Feeder(write) for _, write in pipes]


class _Feeder:
    """Writes a few frames ahead into a pipe, in a thread, so that FFmpeg may read its two inputs in any order."""

    def __init__(self, descriptor: int):
        self.queue: Queue[bytes | None] = Queue(_FRAMES_AHEAD)
        self._file = os.fdopen(descriptor, "wb")
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.queue.put(None)
        self._thread.join()

    def _feed(self) -> None:
        broken = False
        while (data := self.queue.get()) is not None:
            try:
                if not broken:
                    self._file.write(data)
            except BrokenPipeError:  # FFmpeg has failed; `finish` reports why
                broken = True
        with contextlib.suppress(BrokenPipeError):
            self._file.close()


def _metric(title: str, model: str) -> Metric:
    return Metric(
        title,
        2,
        True,
        lambda *_: VmafScorer(model),
        f"{model} of FFmpeg's libvmaf, yuv444p, 0 to 100",
        smallest_side=16,
        check=ffmpeg_with_vmaf,
    )


VMAF = _metric("VMAF", "vmaf_v0.6.1")
VMAF_NEG = _metric("VMAF-neg", "vmaf_v0.6.1neg")
