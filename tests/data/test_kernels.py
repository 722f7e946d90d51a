"""Blur kernels against their closed forms, and the separable filter against the plain one."""

import cv2
import numpy as np
import pytest

from star_jax.data.degradations.blur import blur, separable_terms, trim
from star_jax.data.degradations.kernels import (
    GAUSSIAN_FAMILIES,
    gaussian_kernel,
    generalized_gaussian_kernel,
    make_kernel,
    plateau_kernel,
    sinc_kernel,
)

SIZE, SIGMA_X, SIGMA_Y, ROTATION = 15, 2.5, 0.9, 0.6


def normalised(values):
    return values / values.sum()


def distance_squared(x, y):
    """Mahalanobis distance by the covariance matrix, the textbook way."""
    turn = np.array([[np.cos(ROTATION), -np.sin(ROTATION)], [np.sin(ROTATION), np.cos(ROTATION)]])
    inverse = np.linalg.inv(turn @ np.diag([SIGMA_X**2, SIGMA_Y**2]) @ turn.T)
    return np.array([x, y]) @ inverse @ np.array([x, y])


def closed_form(function):
    offsets = np.arange(SIZE) - SIZE // 2
    return normalised(np.array([[function(distance_squared(x, y)) for x in offsets] for y in offsets]))


@pytest.mark.parametrize("family", GAUSSIAN_FAMILIES)
@pytest.mark.parametrize("size", [7, 21])
def test_kernels_sum_to_one_and_are_symmetric(family, size):
    kernel = make_kernel(family, size, 2.0, 0.7, 1.1, 1.7)
    assert kernel.shape == (size, size)
    assert abs(kernel.sum() - 1) < 1e-12
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-15)


def test_gaussian():
    expected = closed_form(lambda d: np.exp(-d / 2))
    np.testing.assert_allclose(gaussian_kernel(SIZE, SIGMA_X, SIGMA_Y, ROTATION), expected, rtol=1e-10)
    reference = cv2.getGaussianKernel(SIZE, SIGMA_X)
    np.testing.assert_allclose(gaussian_kernel(SIZE, SIGMA_X, SIGMA_X), reference @ reference.T, rtol=1e-10)


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_generalised_gaussian(beta):
    expected = closed_form(lambda d: np.exp(-(d**beta) / 2))
    kernel = generalized_gaussian_kernel(SIZE, SIGMA_X, SIGMA_Y, ROTATION, beta=beta)
    np.testing.assert_allclose(kernel, expected, rtol=1e-9)


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_plateau(beta):
    expected = closed_form(lambda d: 1 / (1 + d**beta))
    kernel = plateau_kernel(SIZE, SIGMA_X, SIGMA_Y, ROTATION, beta=beta)
    np.testing.assert_allclose(kernel, expected, rtol=1e-9)


@pytest.mark.parametrize("cutoff", [np.pi / 5, np.pi / 3, np.pi])
def test_sinc_by_the_integral_of_bessel(cutoff):
    # J1(z) = (1/pi) integral of cos(t - z sin t) over 0..pi, by the midpoint rule (exact for periodic functions).
    t = (np.arange(2000) + 0.5) * np.pi / 2000

    def tap(x, y):
        r = np.hypot(x, y)
        j1 = np.cos(t - cutoff * r * np.sin(t)).mean()
        return cutoff * j1 / (2 * np.pi * r) if r else cutoff**2 / (4 * np.pi)

    offsets = np.arange(SIZE) - SIZE // 2
    expected = normalised(np.array([[tap(x, y) for x in offsets] for y in offsets]))
    np.testing.assert_allclose(sinc_kernel(SIZE, cutoff), expected, atol=1e-9)
    assert abs(sinc_kernel(SIZE, cutoff).sum() - 1) < 1e-12


def test_sinc_cuts_frequencies():
    kernel = sinc_kernel(21, np.pi / 3)
    response = np.abs(np.fft.fft2(kernel, (256, 256)))[0, :129]
    frequency = np.linspace(0, np.pi, 129)
    assert response[frequency < np.pi / 5].min() > 0.85
    assert response[frequency > np.pi / 2].max() < 0.12


def test_even_sizes_are_refused():
    with pytest.raises(ValueError, match="odd size"):
        sinc_kernel(8, 1.0)
    with pytest.raises(ValueError, match="odd size"):
        gaussian_kernel(8, 1.0, 1.0)


@pytest.mark.parametrize("family", [*GAUSSIAN_FAMILIES, "sinc"])
def test_blur_is_the_convolution_within_a_level(family):
    rng = np.random.default_rng(3)
    frame = rng.integers(0, 256, (40, 52, 3), dtype=np.uint8)
    for size in (7, 13, 21):
        sigma_x, sigma_y, beta = rng.uniform(0.2, 3), rng.uniform(0.2, 3), rng.uniform(1, 2)
        kernel = sinc_kernel(size, 1.3) if family == "sinc" else None
        if kernel is None:
            kernel = make_kernel(family, size, sigma_x, sigma_y, 0.7, beta)
        half = size // 2
        padded = np.pad(frame.astype(float), ((half, half), (half, half), (0, 0)), mode="reflect")
        exact = sum(kernel[i, j] * padded[i : i + 40, j : j + 52] for i in range(size) for j in range(size))
        result = blur(frame, kernel)
        assert result.dtype == np.uint8
        assert np.abs(result - np.clip(exact, 0, 255)).max() <= 1.01


def test_axis_aligned_gaussians_are_one_pass_and_small_sigmas_are_trimmed():
    assert len(separable_terms(gaussian_kernel(21, 2.0, 0.8))) == 1
    assert 2 <= len(separable_terms(gaussian_kernel(21, 2.0, 1.2, 0.8))) <= 6
    assert trim(gaussian_kernel(21, 0.3, 0.3)).shape[0] <= 5
    assert trim(gaussian_kernel(21, 3.0, 3.0)).shape[0] >= 19
