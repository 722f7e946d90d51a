"""Layers of the networks: activations [B, H, W, C], parameters by path, float32 throughout."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

Params = Mapping[str, jax.Array]


def convolution(
    params: Params, name: str, x: jax.Array, *, stride: int = 1, padding: int | None = None
) -> jax.Array:
    """A convolution with bias, of `NAME/kernel` and `NAME/bias`.

    Args:
      params: the network's.
      name: path of the layer.
      x: [B, H, W, C].
      stride: stride in pixels along both axes.
      padding: zeros on each side; None: half the window, so that stride 1 keeps the size.
    """
    kernel = params[f"{name}/kernel"]
    sides = kernel.shape[:2] if padding is None else (2 * padding, 2 * padding)
    # A score must not depend on the device: no reduced precision for float32.
    y = lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(side // 2, side // 2) for side in sides],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )
    return y + params[f"{name}/bias"]


def max_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
    """The largest of each window that lies within [B, H, W, C]."""
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), padding="VALID"
    )


def mean_pool(x: jax.Array) -> jax.Array:
    """The mean of each 2x2 window that lies within [B, H, W, C]."""
    return lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), padding="VALID") / 4
