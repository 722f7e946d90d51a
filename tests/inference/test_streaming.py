"""A session gives, with a bounded delay, the frames that the pipeline gives for the whole clip.

The model is a toy whose network sees the window that it is given and whose decoder sees its chunk, so that a frame
that is computed among others than in the whole clip comes out another.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from random_trees import random_tree
from toy_architecture import Toy, ToyConfig

from star_jax.config import SamplingConfig
from star_jax.errors import InputError
from star_jax.inference import pipeline as pipeline_module
from star_jax.inference.pipeline import StarPipeline
from star_jax.inference.settings import UpscaleSettings
from star_jax.models.architectures import build_model, register
from star_jax.models.chunks import independent_chunks
from star_jax.models.posterior import DiagonalGaussian
from star_jax.models.size_rule import SizeRule

ONE_STEP = {"num_inference_steps": 1, "guidance_scale": 1.0, "scale": 1.0}
SIZE = (16, 24)
CHUNK = 3


@dataclasses.dataclass(frozen=True)
class FrameByFrameConfig(ToyConfig):
    architecture: str = "frame-by-frame"


class FrameByFrame(Toy):
    config_type = FrameByFrameConfig
    size_rule = SizeRule(pixels_per_latent=4, step=8)

    def encode_chunks(self, num_frames):
        return (CHUNK,) * -(-num_frames // CHUNK)

    def decode_chunks(self, num_frames, overlap=0):
        return independent_chunks(num_frames, CHUNK, overlap)

    def encode(self, params, frames, carry=None):
        mean = self.bind(params, "codec")(frames[:, :, ::4, ::4])
        return DiagonalGaussian(mean, jnp.full_like(mean, -3.0)), None

    def decode(self, params, latents, carry=None):
        seen = jnp.pad(latents, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
        mixed = seen[:, 1:-1] + 0.3 * seen[:, :-2] - 0.2 * seen[:, 2:]
        return mixed.repeat(4, 2).repeat(4, 3), None

    def velocity(self, params, x, timesteps, conditioning, hint, *, dropout_key=None):
        return super().velocity(params, x, timesteps, conditioning, hint) + x.mean(1, keepdims=True)


register("frame-by-frame", FrameByFrame)


@pytest.fixture(scope="module")
def pipeline():
    sampling = SamplingConfig(1, guidance_scale=1.0)
    model = build_model(FrameByFrameConfig("frame-by-frame", sampling=sampling))
    return StarPipeline(model, random_tree(model.abstract_params(), scale=0.5), None)


@pytest.fixture(scope="module")
def clip():
    """21 frames of noise that moves, so that every frame differs."""
    return np.random.default_rng(0).integers(0, 256, (21, *SIZE, 3), np.uint8)


@pytest.fixture
def whole(pipeline, clip, monkeypatch):
    """(number of frames, settings) -> what the pipeline makes of a clip that it takes whole, stage after stage."""

    def upscale(count, **settings):
        with monkeypatch.context() as patch:
            patch.setattr(pipeline_module, "takes_frames_as_they_come", lambda model, settings: False)
            return pipeline(clip[:count], **settings)

    return upscale


def streamed(session, clip, at_once):
    """(frames, most frames held back after a step)."""
    out, held = [], 0
    for start in range(0, len(clip), at_once):
        out.append(session.step(clip[start : start + at_once]))
        held = max(held, min(start + at_once, len(clip)) - sum(map(len, out)))
    return np.concatenate([*out, session.flush()]), held


# Several windows and a short last chunk; one window; a last window that is longer than the others.
CASES = [(21, 8, 0, 1), (20, 8, 1, 20), (7, 8, 0, 2), (11, 8, 2, 3)]


@pytest.mark.parametrize(("count", "window", "overlap", "at_once"), CASES)
def test_equals_the_whole_clip(count, window, overlap, at_once, pipeline, clip, whole):
    settings = {**ONE_STEP, "window": window, "decode_overlap": overlap}
    expected = whole(count, **settings)
    session = pipeline.stream_session(SIZE, **settings)
    found, held = streamed(session, clip[:count], at_once)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert held <= session.delay <= 1.25 * window + 5 + 2 * overlap


def test_frames_come_before_the_clip_ends(pipeline, clip):
    session = pipeline.stream_session(SIZE, **ONE_STEP, window=8)
    counts = [len(session.step(frame[None])) for frame in clip]
    # The first window is known not to be the last when more than ten frames of whole chunks are there.
    assert next(i for i, count in enumerate(counts) if count) == 11
    assert sum(counts) >= len(clip) - session.delay


@pytest.mark.parametrize("skip", [0, 18])
def test_a_clip_is_read_once_and_goes_on_where_it_was(skip, pipeline, clip, whole):
    """As `upscale` does it: progress of every stage, and after an interruption only what is left."""
    settings, reads, calls, count = {**ONE_STEP, "window": 8, "decode_overlap": 1}, [], [], 20

    def read(size):
        reads.append(size)
        return (clip[start : min(start + size, count)] for start in range(0, count, size))

    pieces = pipeline.stream(
        read,
        count,
        SIZE,
        UpscaleSettings(**settings),
        skip=skip,
        on_progress=lambda *call: calls.append(call),
    )
    found, expected = np.concatenate(list(pieces)), whole(count, **settings)[skip:]
    assert found.shape == expected.shape and np.abs(found.astype(int) - expected).max() <= 1
    assert len(reads) == 1
    assert {stage: done for stage, done, _ in calls} == dict.fromkeys(("encode", "sample", "decode"), count)
    encoded = [done for stage, done, _ in calls if stage == "encode"]
    assert encoded[0] == {0: 3, 18: 9}[skip]


def test_the_next_clip_begins_after_a_flush(pipeline, clip):
    session = pipeline.stream_session(SIZE, **ONE_STEP, window=8)
    first, _ = streamed(session, clip[:9], 2)
    streamed(session, clip[9:], 5)
    again, _ = streamed(session, clip[:9], 2)
    np.testing.assert_array_equal(first, again)
    assert session.flush().shape == (0, *SIZE, 3)


def test_deep_frames_stay_deep(pipeline, clip):
    session = pipeline.stream_session(SIZE, **ONE_STEP, window=8)
    out, _ = streamed(session, clip[:6].astype(np.uint16) * 257, 6)
    assert out.dtype == np.uint16 and len(out) == 6


def test_what_cannot_be_streamed_is_refused(pipeline, clip):
    with pytest.raises(InputError, match=r"num_inference_steps is 15; .* distilled to one step"):
        pipeline.stream_session(SIZE, num_inference_steps=15)
    several = StarPipeline(build_model(ToyConfig("toy")), {}, None)
    with pytest.raises(InputError, match=r"preset 'toy' makes one latent of several frames"):
        several.stream_session(SIZE, num_inference_steps=1)
    session = pipeline.stream_session(SIZE, **ONE_STEP)
    with pytest.raises(InputError, match=r"frames are uint8 \(21, 16, 20, 3\); give .* \[F, 16, 24, 3\]"):
        session.step(clip[:, :, :20])
