"""A convolution whose gradients XLA runs fast on a CPU, inside loops as well as outside.

XLA's fast path for CPUs takes images [N, H, W, C] and kernels [H, W, in, out]. The gradients that JAX derives swap
these axes by labels; XLA turns the labels into transposes, but only outside loops. Inside `lax.scan` or `lax.map`,
which run the decoder's frame groups and the pieces of a batch, such a convolution is a naive loop: the gradient of
`tiny-star`'s decoder takes 3.7 times as long. The gradients here are written with explicit transposes.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from star_jax.ops.platform import target_platform
from star_jax.parallel.activations import on_several_devices

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
Pads = Sequence[tuple[int, int]]


def convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Pads) -> jax.Array:
    """Convolution of images [N, H, W, in] with [h, w, in, out] to [N, H', W', out]; zeros beyond the edges."""
    # On several devices the compiler chooses how to split the gradients, so it gets those that JAX derives.
    on_one_cpu = target_platform() == "cpu" and not on_several_devices()
    run = _with_transposed_gradients if on_one_cpu else _convolve
    pads = tuple((before, after) for before, after in padding)
    return run(x, kernel, (strides[0], strides[1]), pads)


def flax_convolution(
    x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **settings: Any
) -> jax.Array:
    """`convolve` as the `conv_general_dilated` of a `flax.nnx.Conv` without dilation and groups."""
    del settings
    return convolve(x, kernel, strides, padding)


def _convolve(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Pads, **dilation: Any
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=_DIMENSIONS, **dilation
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _with_transposed_gradients(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Pads
) -> jax.Array:
    return _convolve(x, kernel, strides, padding)


def _forward(x, kernel, strides, padding):
    return _convolve(x, kernel, strides, padding), (x, kernel)


def _backward(strides, padding, saved, gradient):
    x, kernel = saved
    # Along each axis: lengths of the input n, the kernel k and the dilated output m; zeros before the input.
    sizes = [
        (x.shape[1 + i], kernel.shape[i], (gradient.shape[1 + i] - 1) * strides[i] + 1, padding[i][0])
        for i in range(2)
    ]
    # Input: the output's gradient, dilated by the stride, convolved with the reversed kernel from out to in.
    of_x = _convolve(
        gradient,
        rearrange(jnp.flip(kernel, (0, 1)), "h w i o -> h w o i"),
        (1, 1),
        tuple((k - 1 - before, n - m + before) for n, k, m, before in sizes),
        lhs_dilation=strides,
    )
    # Kernel: the input convolved with the output's gradient, with the images in place of the channels.
    of_kernel = _convolve(
        rearrange(x, "n h w i -> i h w n"),
        rearrange(gradient, "n h w o -> h w n o"),
        (1, 1),
        tuple((before, k - 1 - n - before + m) for n, k, m, before in sizes),
        rhs_dilation=strides,
    )
    return of_x, rearrange(of_kernel, "i h w o -> h w i o")


_with_transposed_gradients.defvjp(_forward, _backward)
