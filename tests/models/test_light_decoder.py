"""The light decoder: what it starts from, its memory, and its fidelity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_trees import random_tree

from star_jax.config import LightDecoderConfig
from star_jax.models.light_decoder.decoder import LightDecoder, pack, unpack
from star_jax.ops.pixels import enlarge

CONFIG = LightDecoderConfig(channels=(8, 6, 4), blocks=(2, 1, 1))


@pytest.fixture(scope="module")
def decode():
    """(fresh, random): the decoder with new weights, and with random ones, as jitted functions of its arguments."""
    kwargs = {"dtype": jnp.float32, "param_dtype": jnp.float32, "rngs": nnx.Rngs(0)}
    graph, state = nnx.split(LightDecoder(CONFIG, 5, **kwargs))
    fresh = nnx.to_pure_dict(state)
    random = random_tree(fresh, 1, scale=0.2)
    run = jax.jit(lambda params, *arguments: nnx.merge(graph, params)(*arguments))
    return (lambda *arguments: run(fresh, *arguments)), (lambda *arguments: run(random, *arguments))


def clip(frames=4):
    keys = jax.random.split(jax.random.key(2), 2)
    latents = jax.random.normal(keys[0], (2, frames, 3, 4, 5))
    return latents, jax.random.uniform(keys[1], (2, frames, 6, 8, 3), minval=-1)


def test_fresh_weights_give_the_frames_enlarged(decode):
    latents, low = clip()
    frames, _ = decode[0](latents, low, jnp.zeros(2))
    assert frames.shape == (2, 4, 24, 32, 3)
    np.testing.assert_allclose(frames, enlarge(low, (24, 32)), atol=1e-6)


def test_frame_by_frame_is_as_the_whole(decode):
    latents, low = clip()
    fidelity = jnp.array([0.0, 1.0])
    whole, memory = decode[1](latents, low, fidelity)
    parts, carry = [], None
    for number in range(4):
        part, carry = decode[1](latents[:, number : number + 1], low[:, number : number + 1], fidelity, carry)
        parts.append(part)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(carry, memory, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_frame_depends_on_what_came_before_and_on_nothing_after(decode):
    latents, low = clip()
    frames, _ = decode[1](latents, low, jnp.zeros(2))
    changed, _ = decode[1](latents.at[:, 1].add(1.0), low, jnp.zeros(2))
    differs = np.abs(np.asarray(changed - frames)).max(axis=(0, 2, 3, 4)) > 1e-4
    assert differs.tolist() == [False, True, True, True]  # two blocks: two frames back


def test_the_fidelity_is_each_clips_own(decode):
    latents, low = clip()
    near, _ = decode[1](latents, low, jnp.ones(2))
    mixed, _ = decode[1](latents, low, jnp.array([0.0, 1.0]))
    assert np.abs(near[0] - mixed[0]).max() > 1e-3
    np.testing.assert_allclose(near[1], mixed[1], atol=1e-5)


def test_unpacking_undoes_packing():
    low = clip()[1]
    assert pack(low).shape == (2, 4, 3, 4, 12)
    np.testing.assert_array_equal(unpack(pack(low)), low)
