"""The convolution's two forms agree, and the choice between them is the documented one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax.models.layers import Conv2d
from star_jax.models.rngs import InitRngs
from star_jax.ops.attention import targeting
from star_jax.ops.convolution import convolves_faster_as_matmul


@pytest.mark.parametrize("size", [(1, 1), (4, 2), (6, 4), (10, 8)])
def test_both_forms_agree(size):
    conv = Conv2d(5, 7, 3, dtype=jnp.float32, param_dtype=jnp.float32, rngs=InitRngs(0))
    conv.bias[...] = jnp.arange(7, dtype=jnp.float32)
    x = np.random.default_rng(0).standard_normal((2, 3, *size, 5)).astype(np.float32)
    with targeting("cpu"):
        as_matmul = conv(x)
    with targeting("gpu"):
        as_convolution = conv(x)
    np.testing.assert_allclose(as_matmul, as_convolution, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("platform", "size", "kernel", "strides", "expected"),
    [
        ("cpu", (10, 8), (3, 3), (1, 1), True),
        ("cpu", (18, 16), (3, 3), (1, 1), False),
        ("cpu", (10, 8), (3, 3), (2, 2), False),
        ("cpu", (10, 8), (1, 1), (1, 1), False),
        ("gpu", (10, 8), (3, 3), (1, 1), False),
        ("tpu", (10, 8), (3, 3), (1, 1), False),
    ],
)
def test_choice(platform, size, kernel, strides, expected):
    x = jax.ShapeDtypeStruct((1, 8, *size, 4), jnp.float32)
    with targeting(platform):
        assert convolves_faster_as_matmul(x, kernel, strides) == expected
