"""LPIPS v0.1 (Zhang et al. 2018): a weighted distance of deep features."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.evaluation.metrics.metric import BatchScorer, Metric, Networks
from star_jax.evaluation.networks.alexnet import alexnet_features
from star_jax.evaluation.networks.layers import Params
from star_jax.evaluation.networks.vgg16 import vgg16_features

_MEAN = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)
_BACKBONES = {"alex": ("alexnet", alexnet_features), "vgg": ("vgg16", vgg16_features)}


@functools.partial(jax.jit, static_argnums=0)
def lpips(backbone: str, params: Params, weights: Params, frames: jax.Array, truths: jax.Array) -> jax.Array:
    """LPIPS of each whole frame at its own size.

    Args:
      backbone: "alex" or "vgg".
      params: weights of network `alexnet` or `vgg16`.
      weights: weights of network `lpips_alex` or `lpips_vgg`.
      frames: [B, H, W, 3], RGB between 0 and 255.
      truths: ground truth, like `frames`.

    Returns:
      [B], at least 0; 0 for equal frames.
    """
    # One after the other: one batch of both would double the memory.
    pairs = zip(*(lpips_features(backbone, params, x) for x in (frames, truths)), strict=True)
    total: Any = sum(_distance(a, b, weights[f"layer{i}"]) for i, (a, b) in enumerate(pairs, 1))
    return total


def lpips_features(backbone: str, params: Params, frames: jax.Array) -> list[jax.Array]:
    """The features that LPIPS compares, [B, h, w, C] per level, of frames [B, H, W, 3] between 0 and 255."""
    return _BACKBONES[backbone][1](params, _normalised(frames))


def _normalised(frames: jax.Array) -> jax.Array:
    return (frames.astype(jnp.float32) / 127.5 - 1 - _MEAN) / _SCALE


def _distance(a: jax.Array, b: jax.Array, weight: jax.Array) -> jax.Array:
    squares = (_unit(a) - _unit(b)) ** 2
    return jnp.mean(jnp.sum(squares * weight, axis=-1), axis=(1, 2))


def _unit(x: jax.Array) -> jax.Array:
    squares = jnp.sum(x**2, axis=-1, keepdims=True)
    # In a loss, the gradient of sqrt would be NaN at 0.
    norm = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
    return x / (norm + 1e-10)


def _scorer(backbone: str, networks: Networks, _num_frames: int) -> BatchScorer:
    params, weights = networks[_BACKBONES[backbone][0]], networks[f"lpips_{backbone}"]
    return BatchScorer(functools.partial(lpips, backbone, params, weights))


LPIPS = Metric(
    "LPIPS",
    4,
    False,
    functools.partial(_scorer, "alex"),
    "v0.1, AlexNet, RGB, whole frames (lpips 0.1.4, pyiqa)",
    networks=("alexnet", "lpips_alex"),
    smallest_side=31,
)
LPIPS_VGG = Metric(
    "LPIPS-VGG",
    4,
    False,
    functools.partial(_scorer, "vgg"),
    "v0.1, VGG16, RGB, whole frames",
    networks=("vgg16", "lpips_vgg"),
    smallest_side=16,
)
