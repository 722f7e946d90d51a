"""Interrupts at any moment of a run, several in a row, too: nothing is closed under a thread that works on it."""

import itertools
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from sample_videos import moving_frames, write_video

from star_jax.inference import overlap
from star_jax.inference.jobs import Part, Source, make_job
from star_jax.inference.resume import NOTHING_KEPT
from star_jax.inference.scenes import Scene, SceneReader
from star_jax.inference.settings import UpscaleSettings
from star_jax.inference.upscaler import upscale_video
from star_jax.launch.interrupts import terminable
from star_jax.video.encoders import Quality
from star_jax.video.reader import VideoReader
from star_jax.video.writer import VideoWriter

FRAMES = 8


class Enlarging:
    """A pipeline without a network: reads the clip twice, as the real one does, and repeats pixels."""

    def stream(self, read, num_frames, size, settings, *, on_progress, kept, skip, read_colors=None):
        for done, _ in enumerate(read(2), 1):
            on_progress("encode", 2 * done, num_frames)
        for piece in read(2):
            on_progress("sample", 1, 1)
            yield np.repeat(np.repeat(piece, 4, axis=1), 4, axis=2)


class Moments:
    """Counts the moments of a run, and sends signals at one of them, from whatever thread it is in."""

    def __init__(self, at: int):
        self._at, self._numbers, self.inside = at, itertools.count(), 0

    def pass_one(self) -> None:
        if next(self._numbers) == self._at:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
                os.kill(os.getpid(), number)

    def done(self, stage: str) -> int:
        return 0

    def advance(self, stage: str, frames: float) -> None:
        self.pass_one()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("in") / "clip.mp4", moving_frames(FRAMES, 32, 32), audio="aac")


def watched(monkeypatch, moments: Moments) -> None:
    """Has moments pass within reading and writing, and the file closed only where no thread writes."""
    write, discard, chunks = VideoWriter.write, VideoWriter._discard, VideoReader.chunks

    def watched_write(self, frames, pts=None):
        moments.inside += 1
        try:
            for i in range(len(frames)):
                moments.pass_one()
                write(self, frames[i : i + 1], pts and pts[i : i + 1])
        finally:
            moments.inside -= 1

    def watched_discard(self):
        assert not moments.inside
        discard(self)

    def watched_chunks(self, size):
        for chunk in chunks(self, size):
            moments.pass_one()
            yield chunk

    monkeypatch.setattr(VideoWriter, "write", watched_write)
    monkeypatch.setattr(VideoWriter, "_discard", watched_discard)
    monkeypatch.setattr(VideoReader, "chunks", watched_chunks)


def test_interrupts_at_every_moment(tmp_path, clip, monkeypatch):
    output = tmp_path / "out.mp4"
    for number in itertools.count():
        moments = Moments(number)
        settings = UpscaleSettings()
        reading = {"frame_rate": None, "depth": None, "strict": False, "deinterlace": "off"}
        job = make_job(Source(clip), output, settings, resolution=None, part=Part(), reading=reading)
        with monkeypatch.context() as patch:
            watched(patch, moments)
            frames = SceneReader(job.reader)
            try:
                with terminable():
                    upscale_video(
                        Enlarging(),
                        job,
                        frames,
                        [Scene(0, FRAMES)],
                        [FRAMES],
                        settings,
                        NOTHING_KEPT,
                        moments,
                        Quality(preset="ultrafast"),
                    )
            except KeyboardInterrupt:
                assert not list(tmp_path.iterdir()) or output.exists()
            else:
                break  # the run has no more moments
            finally:
                frames.close()
        assert not [t for t in threading.enumerate() if t.name.startswith(("read-ahead", "write-behind"))]
        output.unlink(missing_ok=True)
    assert number > 3 * FRAMES  # read twice, written, and told of
    assert list(tmp_path.iterdir()) == [output]
    assert VideoReader(output).info.num_frames == FRAMES


def test_an_interrupt_while_a_thread_is_waited_for_comes_after_it(monkeypatch):
    """Without the command's handler of signals, as in a notebook."""
    is_waited_for, written = threading.Event(), []

    class Event(threading.Event):
        def wait(self, timeout=None):
            is_waited_for.set()
            return super().wait(timeout)

    def write(item):
        assert is_waited_for.wait(timeout=30)
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        written.append(item)

    monkeypatch.setattr(overlap.threading, "Event", Event)
    with pytest.raises(KeyboardInterrupt), overlap.WriteBehind(write) as hand_over:
        hand_over(1)
        raise OSError("the caller's own error")
    assert written == [1]


def test_closing_ends_the_iterator_that_is_read_ahead():
    ended = []

    def items():
        try:
            yield from range(10)
        finally:
            ended.append(threading.current_thread().name)

    ahead = overlap.read_ahead(items())
    next(ahead)
    ahead.close()
    assert ended == ["MainThread"]


def test_a_lost_interrupt_does_not_keep_the_next_one_away():
    """One that is raised where Python cannot pass it on, as while an object is deleted, is only printed."""
    with pytest.raises(KeyboardInterrupt), terminable():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGTERM)  # passed over: one is on its way
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("not interrupted")
