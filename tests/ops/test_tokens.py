"""Videos as tokens and back: the same values on every platform; on a TPU, channels are kept innermost."""

import jax
import numpy as np
from einops import rearrange
from jax.sharding import AbstractMesh

from star_jax.ops.platform import targeting
from star_jax.ops.tokens import clip_to_tokens, frames_to_tokens, tokens_to_clip, tokens_to_frames

VIDEO = np.random.default_rng(0).standard_normal((2, 3, 4, 5, 6)).astype(np.float32)


def _there_and_back(video):
    frames, clip = frames_to_tokens(video), clip_to_tokens(video)
    return frames, clip, tokens_to_frames(frames, video.shape), tokens_to_clip(clip, video.shape)


def test_tokens_are_pixels_in_reading_order():
    frames, clip, *back = jax.jit(_there_and_back)(VIDEO)
    np.testing.assert_array_equal(frames, rearrange(VIDEO, "b f h w c -> (b f) (h w) c"))
    np.testing.assert_array_equal(clip, rearrange(VIDEO, "b f h w c -> b (f h w) c"))
    for video in back:
        np.testing.assert_array_equal(video, VIDEO)


def test_a_tpu_keeps_channels_innermost():
    with targeting("tpu"):
        program = jax.make_jaxpr(_there_and_back)(VIDEO)
        assert str(program).count("layout_constraint") == 8
        back = jax.jit(_there_and_back)(VIDEO)[2:]
    jax.tree.map(np.testing.assert_array_equal, back, (VIDEO, VIDEO))
    assert "layout_constraint" not in str(jax.make_jaxpr(_there_and_back)(VIDEO))


def test_unequal_shares_are_left_to_the_compiler():
    mesh = AbstractMesh((1, 1, 2), ("data", "fsdp", "context"))  # does not divide three frames
    with jax.sharding.use_abstract_mesh(mesh), targeting("tpu"):
        assert "layout_constraint" not in str(jax.make_jaxpr(_there_and_back)(VIDEO))
