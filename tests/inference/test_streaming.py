"""A session gives, with a bounded delay, the frames that the pipeline gives for the whole clip."""

import numpy as np
import pytest

from star_jax.errors import InputError
from star_jax.inference import pipeline as pipeline_module
from star_jax.inference.settings import UpscaleSettings

ONE_STEP = {"num_inference_steps": 1, "guidance_scale": 1.0, "positive_prompt": "", "scale": 1.0}
SIZE = (16, 64)


@pytest.fixture(scope="module")
def clip():
    """21 frames of noise that moves, so that every frame differs."""
    return np.random.default_rng(0).integers(0, 256, (21, *SIZE, 3), np.uint8)


@pytest.fixture
def whole(tiny_pipeline, clip, monkeypatch):
    """(number of frames, settings) -> what the pipeline makes of a clip that it takes whole, stage after stage."""

    def upscale(count, **settings):
        with monkeypatch.context() as patch:
            patch.setattr(pipeline_module, "takes_frames_as_they_come", lambda model, settings: False)
            return tiny_pipeline(clip[:count], **settings)

    return upscale


def streamed(session, clip, at_once):
    """(frames, most frames held back after a step)."""
    out, held = [], 0
    for start in range(0, len(clip), at_once):
        out.append(session.step(clip[start : start + at_once]))
        held = max(held, min(start + at_once, len(clip)) - sum(map(len, out)))
    return np.concatenate([*out, session.flush()]), held


# Several windows and a short last chunk; one window; a last window that is longer than the others.
CASES = [
    (21, 8, 0, 1),
    (21, 8, 1, 4),
    (20, 8, 1, 20),
    (7, 8, 0, 2),
    (10, 8, 2, 3),
    (18, 6, 1, 1),
    (2, 8, 1, 1),
]


@pytest.mark.parametrize(("count", "window", "overlap", "at_once"), CASES)
def test_equals_the_whole_clip(count, window, overlap, at_once, tiny_pipeline, clip, whole):
    settings = {**ONE_STEP, "window": window, "decode_overlap": overlap}
    expected = whole(count, **settings)
    session = tiny_pipeline.stream_session(SIZE, **settings)
    found, held = streamed(session, clip[:count], at_once)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert held <= session.delay < 2 * window + 3


def test_frames_come_before_the_clip_ends(tiny_pipeline, clip):
    session = tiny_pipeline.stream_session(SIZE, **ONE_STEP, window=4)
    counts = [len(session.step(frame[None])) for frame in clip]
    assert counts.index(3) < 9 and sum(counts) >= len(clip) - session.delay


@pytest.mark.parametrize("skip", [0, 3, 15, 18])
def test_a_clip_is_read_once_and_goes_on_where_it_was(skip, tiny_pipeline, clip, whole):
    """As `upscale` does it: progress of every stage, and after an interruption only what is left."""
    settings, reads, calls = {**ONE_STEP, "window": 6, "decode_overlap": 1}, [], []

    def read(size):
        reads.append(size)
        return (clip[start : start + size] for start in range(0, len(clip), size))

    pieces = tiny_pipeline.stream(
        read,
        len(clip),
        SIZE,
        UpscaleSettings(**settings),
        skip=skip,
        on_progress=lambda *call: calls.append(call),
    )
    found, expected = np.concatenate(list(pieces)), whole(len(clip), **settings)[skip:]
    assert found.shape == expected.shape and np.abs(found.astype(int) - expected).max() <= 1
    assert len(reads) == 1
    assert {stage: done for stage, done, _ in calls} == dict.fromkeys(("encode", "sample", "decode"), 21)
    encoded = [done for stage, done, _ in calls if stage == "encode"]
    assert encoded[0] == {0: 3, 3: 3, 15: 12, 18: 12}[skip]


def test_the_next_clip_begins_after_a_flush(tiny_pipeline, clip):
    session = tiny_pipeline.stream_session(SIZE, **ONE_STEP, window=4)
    first, _ = streamed(session, clip[:9], 2)
    streamed(session, clip[9:], 5)
    again, _ = streamed(session, clip[:9], 2)
    np.testing.assert_array_equal(first, again)
    assert session.flush().shape == (0, *SIZE, 3)


def test_deep_frames_stay_deep(tiny_pipeline, clip):
    session = tiny_pipeline.stream_session(SIZE, **ONE_STEP, window=4)
    out, _ = streamed(session, clip[:6].astype(np.uint16) * 257, 6)
    assert out.dtype == np.uint16 and len(out) == 6


def test_what_cannot_be_streamed_is_refused(tiny_pipeline, clip):
    with pytest.raises(InputError, match=r"num_inference_steps is 15; .* in one step only"):
        tiny_pipeline.stream_session(SIZE)
    session = tiny_pipeline.stream_session(SIZE, **ONE_STEP)
    with pytest.raises(InputError, match=r"frames are uint8 \(21, 16, 60, 3\); expected .* \[F, 16, 64, 3\]"):
        session.step(clip[:, :, :60])
