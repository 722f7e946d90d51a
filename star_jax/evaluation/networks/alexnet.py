"""Features of AlexNet (Krizhevsky 2014, torchvision's `features`)."""

import jax

from star_jax.evaluation.networks.layers import Params, convolution, max_pool


def alexnet_features(params: Params, x: jax.Array) -> list[jax.Array]:
    """The outputs of the five ReLUs.

    Args:
      params: weights of network `alexnet`.
      x: [B, H, W, 3], normalised, sides at least 31.

    Returns:
      Five arrays [B, h, w, C], C = 64, 192, 384, 256, 256.
    """
    features = []
    x = jax.nn.relu(convolution(params, "conv1", x, stride=4, padding=2))
    features.append(x)
    for layer in range(2, 6):
        if layer < 4:
            x = max_pool(x, 3, 2)
        x = jax.nn.relu(convolution(params, f"conv{layer}", x))
        features.append(x)
    return features
