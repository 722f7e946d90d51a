"""The plain convolution: JAX's own gradients, in the form that XLA's fast path for CPUs takes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax.ops.plain_convolution import convolve


def lax_convolve(x, kernel, strides, padding):
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def gradients(convolution, x, kernel, *how):
    def loss(x, kernel):
        return jnp.sin(convolution(x, kernel, *how)).sum()

    return jax.grad(loss, argnums=(0, 1))(x, kernel)


@pytest.mark.parametrize(
    ("size", "strides", "padding"),
    [
        ((7, 6), (1, 1), ((1, 1), (1, 1))),
        ((7, 6), (1, 1), ((0, 0), (1, 1))),  # blocks of rows
        ((8, 6), (2, 2), ((0, 1), (0, 1))),  # the autoencoder's downsampling
        ((18, 16), (2, 2), ((2, 2), (1, 1))),  # the network's
        ((9, 8), (2, 2), ((1, 1), (1, 1))),
        ((4, 5), (3, 1), ((2, 2), (0, 0))),
    ],
)
def test_values_and_gradients_are_those_of_lax(size, strides, padding):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 5))
    how = (strides, padding)
    assert (convolve(x, kernel, *how) == lax_convolve(x, kernel, *how)).all()
    expected = gradients(lax_convolve, x, kernel, *how)
    for ours, theirs in zip(gradients(convolve, x, kernel, *how), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_gradients_within_a_loop_take_the_fast_path():
    """Every convolution of the compiled loop has the one layout that it knows; JAX's own gradients have others."""
    x = jnp.ones((2, 3, 8, 8, 16))
    kernel = jnp.ones((3, 3, 16, 16))

    def layouts(convolution):
        def loss(x, kernel):
            how = ((1, 1), ((1, 1), (1, 1)))
            return jax.lax.map(lambda frames: convolution(frames, kernel, *how).sum(), x**2).sum()

        compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(x, kernel).compile()
        return set(re.findall(r"dim_labels=(\S+?),", compiled.as_text()))

    assert layouts(convolve) == {"b01f_01io->b01f"}
    assert len(layouts(lax_convolve)) > 1
