"""Layers of the scores' networks: activations are [B, H, W, C], parameters are given by path, all is float32."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax

Params = Mapping[str, jax.Array]


def convolution(
    params: Params, name: str, x: jax.Array, *, stride: int = 1, padding: int | None = None
) -> jax.Array:
    """A convolution with `NAME/kernel` and `NAME/bias`.

    Args:
      params: weights of the network.
      name: path of the layer.
      x: [B, H, W, C].
      stride: stride in pixels along both axes.
      padding: zeros on each side; None for half the window, so that stride 1 keeps the size.
    """
    kernel = params[f"{name}/kernel"]
    sides = kernel.shape[:2] if padding is None else (2 * padding, 2 * padding)
    # Full float32 precision, because a score must not depend on the device.
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
    """The maximum of each window that lies within [B, H, W, C]."""
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), padding="VALID"
    )


def mean_pool(x: jax.Array) -> jax.Array:
    """The mean of each 2x2 window that lies within [B, H, W, C]."""
    return lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), padding="VALID") / 4


def linear(params: Params, name: str, x: jax.Array) -> jax.Array:
    """A linear map of the last axis with `NAME/kernel` and, if there is one, `NAME/bias`."""
    y = jnp.matmul(x, params[f"{name}/kernel"], precision=lax.Precision.HIGHEST)
    return y + params[f"{name}/bias"] if f"{name}/bias" in params else y


def layer_norm(params: Params, name: str, x: jax.Array, epsilon: float) -> jax.Array:
    """Layer normalisation of the last axis with `NAME/scale` and `NAME/bias`."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    normed = centred / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + epsilon)
    return normed * params[f"{name}/scale"] + params[f"{name}/bias"]


def patches(params: Params, name: str, x: jax.Array, size: tuple[int, int, int]) -> jax.Array:
    """A convolution of a video with a stride equal to its window.

    Args:
      params: weights of the network.
      name: path of the layer.
      x: [B, T, H, W, C], each of T, H and W a multiple of `size`.
      size: window and stride along time, height and width.
    """
    t, h, w = size
    x = rearrange(x, "b (t p) (h q) (w r) c -> b t h w (p q r c)", p=t, q=h, r=w)
    kernel = rearrange(params[f"{name}/kernel"], "p q r i o -> (p q r i) o")
    return jnp.matmul(x, kernel, precision=lax.Precision.HIGHEST) + params[f"{name}/bias"]
