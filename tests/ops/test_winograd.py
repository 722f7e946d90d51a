"""Winograd's filtering equals a convolution, in value and in gradient, whatever the size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax.ops import winograd


def _random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def _direct_image(x, kernel, xp=jnp):
    """The sum of nine products; of NumPy, nothing is compiled for it."""
    height, width = x.shape[-3:-1]
    padded = xp.pad(x, (*((0, 0),) * (x.ndim - 3), (1, 1), (1, 1), (0, 0)))
    rows = (padded[..., i : i + height, :, :] for i in range(3))
    return sum(row[..., j : j + width, :] @ kernel[i, j] for i, row in enumerate(rows) for j in range(3))


def _direct_frames(x, kernel, xp=jnp):
    padded = xp.pad(x, ((0, 0), (1, 1), *((0, 0),) * (x.ndim - 2)))
    return sum(padded[:, i : i + x.shape[1]] @ kernel[i] for i in range(3))


@pytest.mark.parametrize("height", [1, 2, 5])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7, 8, 13])
def test_image(height, width):
    x, kernel = _random(0, 2, 3, height, width, 6), _random(1, 3, 3, 6, 5)
    with jax.enable_x64(True):
        found = jax.jit(winograd.convolve_image)(x, kernel)
    np.testing.assert_allclose(found, _direct_image(x, kernel, np), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 6, 9])
def test_frames(frames):
    x, kernel = _random(0, 2, frames, 3, 2, 6), _random(1, 3, 6, 5)
    with jax.enable_x64(True):
        found = jax.jit(winograd.convolve_frames)(x, kernel)
    np.testing.assert_allclose(found, _direct_frames(x, kernel, np), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("height", [8, 16, 19, 33, 36])
def test_blocks_of_rows(height, monkeypatch):
    monkeypatch.setattr(winograd, "_WHOLE_BYTES", 0)
    monkeypatch.setattr(winograd, "_BLOCK_BYTES", 0)
    x, kernel = _random(0, 1, 3, height, 6, 4), _random(1, 3, 3, 4, 5)
    expected = _direct_image(x, kernel, np)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradient(convolve, x, kernel):
        out, pullback = jax.vjp(convolve, x, kernel)
        return out, *pullback(expected)

    with jax.enable_x64(True):
        found = value_and_gradient(winograd.convolve_image, x, kernel)
        wanted = value_and_gradient(_direct_image, x, kernel)
    np.testing.assert_allclose(found[0], expected, rtol=1e-10, atol=1e-10)
    for a, b in zip(found[1:], wanted[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("convolve", "direct", "kernel_shape"),
    [
        (winograd.convolve_image, _direct_image, (3, 3, 4, 5)),
        (winograd.convolve_frames, _direct_frames, (3, 4, 5)),
    ],
)
def test_gradients(convolve, direct, kernel_shape):
    x, kernel = _random(0, 2, 6, 5, 7, 4), _random(1, *kernel_shape)
    weight = _random(2, 2, 6, 5, 7, 5)

    def loss(function, x, kernel):
        return (jnp.tanh(function(x, kernel)) * weight).sum()

    with jax.enable_x64(True):
        found = jax.jit(jax.grad(functools.partial(loss, convolve), (0, 1)))(x, kernel)
        wanted = jax.jit(jax.grad(functools.partial(loss, direct), (0, 1)))(x, kernel)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_float32_error_stays_small():
    x, kernel = _random(0, 1, 2, 18, 16, 320), _random(1, 3, 3, 320, 64) / np.sqrt(9 * 320)
    exact = _direct_image(x, kernel, np)
    found = jax.jit(winograd.convolve_image)(x.astype(np.float32), kernel.astype(np.float32))
    error = np.sqrt(np.mean(np.square(found - exact)) / np.mean(np.square(exact)))
    assert error < 2.5e-6


def test_saving():
    assert winograd.multiplications_left(8) == 0.5
    assert winograd.multiplications_left(3) == pytest.approx(2 / 3)
    assert winograd.multiplications_left(1) == 2.0
