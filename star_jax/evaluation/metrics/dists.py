"""DISTS (Ding et al. 2020): similarity of means (texture) and of correlations (structure) of VGG16's features."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from star_jax.evaluation.metrics.metric import BatchScorer, Metric, Networks
from star_jax.evaluation.networks.layers import Params
from star_jax.evaluation.networks.vgg16 import vgg16_features

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_EPSILON = 1e-6
_HANNING = np.hanning(5)[1:-1]
_WINDOW = (np.outer(_HANNING, _HANNING) / _HANNING.sum() ** 2).astype(np.float32)


@jax.jit
def dists(params: Params, weights: Params, frames: jax.Array, truths: jax.Array) -> jax.Array:
    """DISTS of each frame at its own size.

    This is how pyiqa computes it, too; the authors' script first resizes the shorter side to 256.

    Args:
      params: weights of network `vgg16`.
      weights: weights of network `dists`.
      frames: [B, H, W, 3], RGB between 0 and 255.
      truths: ground truth, like `frames`.

    Returns:
      [B], 0 for equal frames.
    """
    total = jnp.sum(weights["alpha"]) + jnp.sum(weights["beta"])
    similarity: jax.Array | float = 0.0
    begin = 0
    for x, y in zip(_features(params, frames), _features(params, truths), strict=True):
        end = begin + x.shape[-1]
        texture, structure = _similarities(x, y)
        similarity += texture @ weights["alpha"][begin:end] + structure @ weights["beta"][begin:end]
        begin = end
    return 1 - similarity / total


def _features(params: Params, frames: jax.Array) -> list[jax.Array]:
    x = frames.astype(jnp.float32) / 255
    return [x, *vgg16_features(params, (x - _MEAN) / _STD, _l2_pool)]


def _l2_pool(x: jax.Array) -> jax.Array:
    """Root mean square in a window, at every second pixel."""
    channels = x.shape[-1]
    kernel = jnp.broadcast_to(_WINDOW[..., None, None], (3, 3, 1, channels))
    squares = lax.conv_general_dilated(
        x**2,
        kernel,
        (2, 2),
        [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
        precision=lax.Precision.HIGHEST,
    )
    return jnp.sqrt(squares + 1e-12)


def _similarities(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    mean_x, mean_y = (jnp.mean(z, axis=(1, 2), keepdims=True) for z in (x, y))
    covariance = jnp.mean((x - mean_x) * (y - mean_y), axis=(1, 2))
    variances = jnp.mean((x - mean_x) ** 2 + (y - mean_y) ** 2, axis=(1, 2))
    mean_x, mean_y = mean_x[:, 0, 0], mean_y[:, 0, 0]
    texture = (2 * mean_x * mean_y + _EPSILON) / (mean_x**2 + mean_y**2 + _EPSILON)
    return texture, (2 * covariance + _EPSILON) / (variances + _EPSILON)


def _scorer(networks: Networks, _num_frames: int) -> BatchScorer:
    return BatchScorer(lambda frames, truths: dists(networks["vgg16"], networks["dists"], frames, truths))


DISTS = Metric(
    "DISTS",
    4,
    False,
    _scorer,
    "VGG16, RGB, whole frames, no resize (pyiqa)",
    networks=("vgg16", "dists"),
    smallest_side=16,
)
