"""The convolution's forms agree, and the choice between them is the documented one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from star_jax.models.layers import Conv2d
from star_jax.models.resnet import TemporalConv
from star_jax.models.rngs import InitRngs
from star_jax.ops.column_convolution import convolve_columns
from star_jax.ops.convolution import frames_form, image_form
from star_jax.ops.platform import targeting

DTYPES = {"dtype": jnp.float32, "param_dtype": jnp.float32}


def _random(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("size", "channels", "form"),
    [
        ((1, 1), (5, 7), "matmul"),
        ((4, 2), (5, 7), "matmul"),
        ((10, 8), (5, 7), "matmul"),
        ((13, 11), (5, 7), None),
        ((13, 11), (160, 160), "winograd"),
    ],
)
def test_convolution_of_frames_is_the_same_on_every_platform(size, channels, form):
    conv = Conv2d(*channels, 3, **DTYPES, rngs=InitRngs(0))
    conv.bias[...] = jnp.arange(channels[1], dtype=jnp.float32)
    x = _random(2, 3, *size, channels[0])
    assert image_form(x.shape, channels[1], x.dtype) == form
    here = conv(x)
    with targeting("gpu"):
        direct = conv(x)
    np.testing.assert_allclose(here, direct, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("num_frames", "form"), [(3, "plane"), (8, "winograd")])
def test_convolution_along_frames_is_the_same_on_every_platform(num_frames, form):
    conv = TemporalConv(160, **DTYPES, rngs=InitRngs(0))
    conv.bias[...] = jnp.arange(160, dtype=jnp.float32)
    x = _random(2, num_frames, 6, 7, 160)
    assert frames_form(x.shape, x.dtype) == form
    here = conv(x)
    with targeting("gpu"):
        direct = conv(x)
    np.testing.assert_allclose(here, direct, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("settings", [{"strides": 2}, {"padding": (0, 0)}, {"padding": (2, 1)}])
def test_other_convolutions_are_flax_s(settings):
    conv = Conv2d(5, 7, 3, **settings, **DTYPES, rngs=InitRngs(0))
    x = _random(2, 3, 10, 8, 5)
    padding = settings.get("padding", (1, 1))
    expected = jax.lax.conv_general_dilated(
        x.reshape(6, 10, 8, 5),
        conv.kernel[...],
        (settings.get("strides", 1),) * 2,
        [(n, n) for n in padding],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(conv(x).reshape(expected.shape), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("platform", "shape", "dtype", "expected"),
    [
        ("cpu", (1, 8, 10, 8, 1280), "float32", "matmul"),
        ("cpu", (1, 8, 10, 8, 1280), "bfloat16", "matmul"),
        ("cpu", (1, 8, 18, 16, 640), "float32", "winograd"),
        (
            "cpu",
            (1, 1, 18, 16, 640),
            "float32",
            None,
        ),  # transforming the weights costs more than it saves
        ("cpu", (1, 8, 18, 16, 640), "bfloat16", None),
        ("cpu", (1, 8, 34, 32, 128), "float32", None),
        ("cpu", (1, 8, 34, 33, 640), "float32", "winograd"),
        ("cpu", (1, 64, 34, 5, 640), "float32", None),  # five columns take two tiles of four
        ("gpu", (1, 8, 10, 8, 1280), "float32", None),
        ("tpu", (1, 8, 18, 16, 640), "float32", None),
    ],
)
def test_choice_for_frames(platform, shape, dtype, expected):
    with targeting(platform):
        assert image_form(shape, shape[-1], jnp.dtype(dtype)) == expected


@pytest.mark.parametrize(
    ("platform", "shape", "expected"),
    [
        ("cpu", (1, 8, 34, 32, 320), "winograd"),
        ("cpu", (1, 3, 34, 32, 320), "plane"),
        ("cpu", (1, 5, 34, 32, 320), "plane"),
        ("cpu", (1, 8, 6, 4, 1280), "plane"),
        ("cpu", (1, 32, 90, 160, 320), "plane"),  # would need too much memory at once
        ("gpu", (1, 8, 34, 32, 320), "plane"),
    ],
)
def test_choice_along_frames(platform, shape, expected):
    with targeting(platform):
        assert frames_form(shape, jnp.dtype("float32")) == expected


@pytest.mark.parametrize("platform", ["gpu", "tpu", "cpu"])
def test_choice_along_frames_of_a_mesh(platform):
    mesh = AbstractMesh((1, 1, 2), ("data", "fsdp", "context"))
    with jax.sharding.use_abstract_mesh(mesh), targeting(platform):
        assert frames_form((1, 8, 34, 32, 320), jnp.dtype("float32")) == "shares"


@pytest.mark.parametrize(("height", "width"), [(9, 6), (3, 2), (5, 13)])
def test_columns_as_channels_are_the_same_convolution(height, width):
    image, kernel, weights = _random(2, height, width, 2), _random(7, 7, 2, 1), _random(2, height, width)

    def plainly(image, kernel):
        dims = ("NHWC", "HWIO", "NHWC")
        out = jax.lax.conv_general_dilated(image, kernel, (1, 1), [(3, 3), (3, 3)], dimension_numbers=dims)
        return (out[..., 0] * weights).sum()

    def by_columns(image, kernel):
        return (convolve_columns(image.swapaxes(2, 3), kernel) * weights).sum()

    expected, found = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(image, kernel) for f in (plainly, by_columns)
    )
    jax.tree.map(lambda f, e: np.testing.assert_allclose(f, e, rtol=1e-4, atol=1e-4), found, expected)
