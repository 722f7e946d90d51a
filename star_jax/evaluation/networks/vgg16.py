"""Features of VGG16 (Simonyan and Zisserman 2015, torchvision's `features`)."""

from collections.abc import Callable

import jax

from star_jax.evaluation.networks.layers import Params, convolution, max_pool

CONVOLUTIONS = (2, 2, 3, 3, 3)  # number of convolutions in each stage


def _halve(x: jax.Array) -> jax.Array:
    return max_pool(x, 2, 2)


def vgg16_features(
    params: Params, x: jax.Array, pool: Callable[[jax.Array], jax.Array] = _halve
) -> list[jax.Array]:
    """The outputs of the last ReLU of each stage (relu1_2, 2_2, 3_3, 4_3, 5_3).

    Args:
      params: weights of network `vgg16`.
      x: [B, H, W, 3], normalised, sides at least 16.
      pool: function that halves the size between stages, for which DISTS has its own.

    Returns:
      Five arrays [B, h, w, C], C = 64, 128, 256, 512, 512.
    """
    features = []
    for stage, count in enumerate(CONVOLUTIONS, 1):
        if stage > 1:
            x = pool(x)
        for layer in range(1, count + 1):
            x = jax.nn.relu(convolution(params, f"conv{stage}_{layer}", x))
        features.append(x)
    return features
