"""Blur kernels of Real-ESRGAN (arXiv 2107.10833, section 3): six Gaussian families and the 2-D sinc.

Every kernel is a float64 array [size, size] that sums to 1. `x` runs along the width, `y` along the height;
`rotation` is in radians, from the x axis towards the y axis.
"""

import numpy as np
from scipy import special

GAUSSIAN_FAMILIES = (
    "iso",
    "aniso",
    "generalized_iso",
    "generalized_aniso",
    "plateau_iso",
    "plateau_aniso",
)


def _squared_distance(size: int, sigma_x: float, sigma_y: float, rotation: float) -> np.ndarray:
    """Mahalanobis distance squared of each tap from the centre, [size, size]."""
    if size % 2 == 0:
        raise ValueError(f"a blur kernel needs an odd size, got {size}")
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    along = (np.cos(rotation) * x + np.sin(rotation) * y) / sigma_x
    across = (np.cos(rotation) * y - np.sin(rotation) * x) / sigma_y
    return along**2 + across**2


def gaussian_kernel(size: int, sigma_x: float, sigma_y: float, rotation: float = 0.0) -> np.ndarray:
    """exp(-d / 2), where d is the squared Mahalanobis distance; [size, size].

    Raises:
      ValueError: the size is even, as in all functions of this file.
    """
    return generalized_gaussian_kernel(size, sigma_x, sigma_y, rotation, beta=1.0)


def generalized_gaussian_kernel(
    size: int, sigma_x: float, sigma_y: float, rotation: float = 0.0, *, beta: float
) -> np.ndarray:
    """exp(-d^beta / 2) (Pascal et al., arXiv 1302.6498): beta 1 is the Gaussian, a higher beta flattens the top."""
    kernel = np.exp(-0.5 * _squared_distance(size, sigma_x, sigma_y, rotation) ** beta)
    return kernel / kernel.sum()


def plateau_kernel(
    size: int, sigma_x: float, sigma_y: float, rotation: float = 0.0, *, beta: float
) -> np.ndarray:
    """1 / (1 + d^beta): a plateau with heavy tails."""
    kernel = 1 / (1 + _squared_distance(size, sigma_x, sigma_y, rotation) ** beta)
    return kernel / kernel.sum()


def sinc_kernel(size: int, cutoff: float) -> np.ndarray:
    """Circular low-pass filter, cutoff * J1(cutoff * r) / (2 pi r): the ringing of sharpened or coded video.

    Args:
      size: odd.
      cutoff: radians per pixel, at most pi.

    Raises:
      ValueError: the size is even.
    """
    if size % 2 == 0:
        raise ValueError(f"a sinc kernel needs an odd size, got {size}")
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius = np.hypot(x, y)
    centre = radius == 0
    radius[centre] = 1
    kernel = cutoff * special.j1(cutoff * radius) / (2 * np.pi * radius)
    kernel[centre] = cutoff**2 / (4 * np.pi)  # the limit at r = 0
    return kernel / kernel.sum()


def make_kernel(
    family: str, size: int, sigma_x: float, sigma_y: float, rotation: float, beta: float
) -> np.ndarray:
    """Builds a kernel of one of GAUSSIAN_FAMILIES; the `iso` families use sigma_x for both axes.

    Raises:
      ValueError: there is no such family, or the size is even.
    """
    if family not in GAUSSIAN_FAMILIES:
        raise ValueError(f"no kernel family {family!r}; choose one of {', '.join(GAUSSIAN_FAMILIES)}")
    shape = (sigma_x, sigma_y, rotation) if family.endswith("aniso") else (sigma_x, sigma_x, 0.0)
    if family.startswith("generalized"):
        return generalized_gaussian_kernel(size, *shape, beta=beta)
    if family.startswith("plateau"):
        return plateau_kernel(size, *shape, beta=beta)
    return gaussian_kernel(size, *shape)
