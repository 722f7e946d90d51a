"""LIEM: the gate itself, its three positions, and that it can be left out."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import abstract_component

from star_jax.checkpoints.trees import flatten
from star_jax.config import LIEM_POSITIONS, LiemConfig
from star_jax.errors import InputError
from star_jax.models.i2vgenxl.transformers import SpatialTransformerBlock, TemporalTransformerBlock
from star_jax.models.liem import SpatialLiem, TemporalLiem
from star_jax.models.rngs import InitRngs
from star_jax.ops.attention import AttentionKernels
from star_jax.ops.platform import targeting
from star_jax.presets import PRESETS

KWARGS = {"dtype": jnp.float32, "param_dtype": jnp.float32}
SIZES = {"heads": 2, "head_dim": 4, "kernels": AttentionKernels.all("xla")}


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_spatial_gate_is_a_7x7_convolution_of_maximum_and_mean():
    liem = SpatialLiem(**KWARGS, rngs=InitRngs(0))
    x = np.random.default_rng(0).standard_normal((2, 9, 8, 5)).astype(np.float32)
    statistics = np.stack([x.max(-1), x.mean(-1)], -1)
    padded = np.pad(statistics, ((0, 0), (3, 3), (3, 3), (0, 0)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), axis=(1, 2))  # [..., channel, 7, 7]
    logits = np.einsum("bhwcij,ijco->bhwo", patches, np.asarray(liem.conv.kernel[...]))
    np.testing.assert_allclose(liem(x), _sigmoid(logits) * x, rtol=1e-5, atol=1e-6)


def test_temporal_gate_is_linear_in_maximum_and_mean():
    liem = TemporalLiem(**KWARGS, rngs=InitRngs(0))
    x = np.random.default_rng(1).standard_normal((3, 4, 6)).astype(np.float32)
    weights = np.asarray(liem.proj.kernel[...])[:, 0]
    gate = _sigmoid(weights[0] * x.max(-1) + weights[1] * x.mean(-1))
    np.testing.assert_allclose(liem(x), gate[..., None] * x, rtol=1e-5, atol=1e-6)


def _blocks(make, position):
    """A block with LIEM of zero weights (every gate is 1/2) and the same block without LIEM."""
    gated, plain = (make(liem_position=p, rngs=InitRngs(0)) for p in (position, None))
    for liem in (gated.liem1, getattr(gated, "liem2", None)):
        if liem is not None:
            kernel = liem.conv.kernel if hasattr(liem, "conv") else liem.proj.kernel
            kernel[...] = jnp.zeros_like(kernel[...])
    graphdef, _ = nnx.split(plain)
    values = {path: leaf for path, leaf in nnx.to_flat_state(nnx.state(gated)) if "liem" not in str(path[0])}
    return gated, nnx.merge(graphdef, nnx.from_flat_state(values))


def _spatial(**kwargs):
    return SpatialTransformerBlock(8, context_dim=6, **SIZES, **KWARGS, **kwargs)


def _temporal(**kwargs):
    return TemporalTransformerBlock(8, **SIZES, **KWARGS, **kwargs)


def _half_at(block, context, position, x):
    """The block without LIEM, by hand, every gate being 1/2."""
    before = 0.5 if position == "before_attention" else 1.0
    after = 0.5 if position == "after_attention" else 1.0
    tokens = (lambda y: y.reshape(1, -1, 8)) if context is not None else (lambda y: y)
    x = after * block.attn1(tokens(block.norm1(before * x))).reshape(x.shape) + x
    if context is not None:
        x = block.attn2(tokens(block.norm2(x)), block.attn2.project(context)).reshape(x.shape) + x
    else:
        x = after * block.attn2(block.norm2(before * x)) + x
    x = block.ff(block.norm3(x)) + x
    return 0.5 * x if position == "block_output" else x


@pytest.mark.parametrize("position", LIEM_POSITIONS)
def test_position_in_a_spatial_block(position):
    gated, plain = _blocks(_spatial, position)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((1, 1, 4, 5, 8)).astype(np.float32)
    context = rng.standard_normal((1, 3, 6)).astype(np.float32)
    actual = gated(x, gated.attn2.project(context))
    np.testing.assert_allclose(actual, _half_at(plain, context, position, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("position", LIEM_POSITIONS)
def test_position_in_a_temporal_block(position):
    gated, plain = _blocks(_temporal, position)
    x = np.random.default_rng(3).standard_normal((6, 4, 8)).astype(np.float32)
    np.testing.assert_allclose(gated(x), _half_at(plain, None, position, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("spatial", "temporal"), [(True, False), (False, True), (False, False)])
def test_each_kind_can_be_left_out(spatial, temporal):
    liem = LiemConfig(spatial=spatial, temporal=temporal)
    preset = PRESETS["tiny"]
    config = dataclasses.replace(preset, unet=dataclasses.replace(preset.unet, liem=liem))
    paths = [path for path in flatten(abstract_component(config, "unet")[1]) if "liem" in path]
    assert any("/attentions/" in path for path in paths) == spatial
    assert any("/temp_attentions/" in path or "transformer_in" in path for path in paths) == temporal


def test_unknown_position_is_refused():
    with pytest.raises(InputError, match="choose one of before_attention"):
        LiemConfig(position="everywhere")


def test_spatial_gate_for_a_tpu_is_the_same():
    x = np.random.default_rng(5).standard_normal((2, 3, 9, 6, 8)).astype(np.float32)
    gate = SpatialLiem(rngs=InitRngs(0), **KWARGS)
    expected = gate(x)
    with targeting("tpu"):
        np.testing.assert_allclose(gate(x), expected, rtol=1e-5, atol=1e-6)
