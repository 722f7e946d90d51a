"""The forms of GPUs, on a CPU: as the plain ones, forward and backward; Pallas kernels interpreted and lowered."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax.models.i2vgenxl.transformers import TemporalTransformer
from star_jax.models.rngs import InitRngs
from star_jax.ops.attention import dot_product_attention
from star_jax.ops.frames_attention import frames_attention, takes
from star_jax.ops.geglu import geglu
from star_jax.ops.group_norm import group_norm
from star_jax.ops.platform import targeting
from star_jax.ops.variants import using


def _random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _value_and_gradient(function, weight, *inputs):
    def loss(*inputs):
        out = function(*inputs)
        return (out * weight).sum(), out

    (_, out), gradient = jax.jit(jax.value_and_grad(loss, range(len(inputs)), has_aux=True))(*inputs)
    return out, *gradient


def _lowered(function, *shapes, dtype=jnp.bfloat16):
    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    with targeting("gpu"):
        return jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(("frames", "head_dim"), [(1, 16), (3, 16), (32, 64), (33, 16)])
def test_attention_along_frames(frames, head_dim):
    shape = (2, frames, 3, 2, head_dim)
    inputs = [_random(i, *shape) for i in range(3)]

    def plain(q, k, v):
        pixels_first = [x.swapaxes(1, 2).reshape(-1, frames, 2, head_dim) for x in (q, k, v)]
        out = dot_product_attention(*pixels_first, implementation="xla")
        return out.reshape(2, 3, frames, 2, head_dim).swapaxes(1, 2)

    found, wanted = (_value_and_gradient(f, _random(3, *shape), *inputs) for f in (frames_attention, plain))
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


def test_attention_along_frames_lowers_for_cuda():
    shape = (1, 33, 20, 5, 64)
    text = _lowered(
        jax.grad(lambda *x: frames_attention(*x).astype(jnp.float32).sum(), (0, 1, 2)), *[shape] * 3
    )
    assert text.count("__gpu$xla.gpu.triton") == 1  # the forward pass is not needed for this gradient
    assert "__gpu$xla.gpu.triton" in _lowered(frames_attention, *[shape] * 3)
    assert takes(33, 64) and not takes(65, 64) and not takes(32, 24) and not takes(32, 8)


NORM = {"epsilon": 1e-5, "silu": True, "dtype": jnp.float32}


@pytest.mark.parametrize("over_frames", [False, True])
@pytest.mark.parametrize(("size", "channels", "groups"), [((5, 7), 6, 3), ((13, 11), 80, 8)])
def test_group_norm_with_one_read(size, channels, groups, over_frames):
    """Several blocks of pixels and channels, none of them full; a mean far from zero."""
    x = 30 + _random(0, 2, 3, *size, channels)
    scale, bias = _random(1, channels), _random(2, channels)
    norm = functools.partial(group_norm, num_groups=groups, over_frames=over_frames, **NORM)
    wanted = _value_and_gradient(norm, _random(3, *x.shape), x, scale, bias)
    with using(group_norm="one_read"):
        assert "pallas_call" in str(jax.make_jaxpr(norm)(x, scale, bias))
        found = _value_and_gradient(norm, _random(3, *x.shape), x, scale, bias)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=3e-5 * np.abs(b).max())


def test_group_norm_lowers_for_cuda():
    norm = functools.partial(group_norm, num_groups=32, over_frames=True, **NORM)
    with using(group_norm="one_read"):
        assert "__gpu$xla.gpu.triton" in _lowered(norm, (1, 2, 90, 16, 320), (320,), (320,))


def test_temporal_transformer_with_frames_left_where_they_are():
    kwargs = {"dtype": jnp.bfloat16, "param_dtype": jnp.float32, "rngs": InitRngs(0)}
    transformer = TemporalTransformer(32, head_dim=16, num_groups=4, **kwargs)
    transformer.proj_out.kernel[...] = jnp.eye(32)
    x = _random(0, 2, 5, 3, 2, 32)
    wanted = np.asarray(jax.jit(transformer)(x), np.float32)
    with using(frames_attention="frames_first"):
        assert "pallas_call" in str(jax.make_jaxpr(transformer)(x))
        found = np.asarray(jax.jit(transformer)(x), np.float32)
    assert np.abs(found - wanted).max() < 0.03 * np.abs(wanted - x).max()


def test_gate_in_float32_is_the_more_exact_one():
    x = np.concatenate([_random(0, 999, 4), 3 * _random(1, 999, 4)], axis=-1)
    half = jnp.asarray(x, jnp.bfloat16)
    exact = np.asarray(geglu(half.astype(jnp.float32)), np.float64)

    def error(form):
        with using(geglu=form):
            return np.abs(np.asarray(jax.jit(geglu)(half), np.float64) - exact).mean()

    assert error("float32_erf") <= error("gelu") and error("float32_erf") < 2**-9 * np.abs(exact).mean() * 1.5


def test_single_precision_keeps_its_gate():
    x = _random(0, 7, 8)
    plain = geglu(x)
    with using(geglu="float32_erf"):
        assert (geglu(x) == plain).all()
