"""A clip through the pipeline with CogVideoX, small and with random weights."""

import numpy as np
import pytest

from star_jax.inference.pipeline import StarPipeline
from star_jax.init.random_checkpoint import random_checkpoint


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cogvideox") / "checkpoint"
    random_checkpoint(directory, "tiny-cogvideox")
    return StarPipeline.from_pretrained(directory, dtype="float32")


def test_a_clip_of_any_length_and_size(pipeline):
    """Eight frames are filled up to nine, 36x40 pixels to 48x48; both are cut again."""
    clip = np.random.default_rng(0).integers(0, 256, (8, 9, 10, 3), np.uint8)
    calls = []
    out = pipeline(clip, "a cat", num_inference_steps=2, on_progress=lambda *call: calls.append(call))
    assert out.shape == (8, 36, 40, 3) and out.dtype == np.uint8
    assert calls == [("encode", 8, 8), ("sample", 1, 2), ("sample", 2, 2), ("decode", 8, 8)]
    # The colours are the input's, frame by frame.
    np.testing.assert_allclose(out.mean((1, 2)), clip.mean((1, 2)), atol=12)
    assert np.array_equal(out, pipeline(clip, "a cat", num_inference_steps=2))
    assert not np.array_equal(out, pipeline(clip, "a dog", num_inference_steps=2))
