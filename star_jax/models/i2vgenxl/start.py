"""Initial weights with which UNet and ControlNet pass the low-resolution latents on and only learn to improve them.

At the noisy end the velocity is nearly minus the clean latents, and the low-resolution latents are a first guess of
those. The first channels of the finest level are reserved for this guess. The ControlNet's zero convolutions, which
protect a trained base network from a fresh ControlNet, start open here: there is nothing to protect, and two of
them in a row pass no gradient. The last skip connection passes the guess on, and the output reads it. Residual
branches and transformers end in zeros anyway. All other weights start at random.

The last norm would remove a clip's brightness and contrast from the guess. So the other channels of the finest
level are large constants there, half of them negative. They fix the deviation that the norm divides by, and their
decrease after the norm is the mean that it subtracted, which the output adds again.
"""

import numpy as np

from star_jax.config import UNetConfig
from star_jax.models.svd_vae.start import SHIFT, SHIFTED

_CONSTANT = 6.0  # several times the latents' deviation, which is 1


def guess_leaf(config: UNetConfig, path: str, leaf: np.ndarray) -> np.ndarray:
    """Initial value of a weight of the ControlNet or the UNet.

    Args:
      config: sizes; unless the finest level has more channels than the latents, all leaves stay as they are.
      path: path in the tree, such as `conv_in/kernel`.
      leaf: the weight as its layer initialises it.
    """
    latents, width = config.in_channels, config.block_out_channels[0]
    if width <= latents:
        return leaf
    leaf = leaf.copy()
    if path == "controlnet_cond_embedding/kernel":
        leaf[1, 1] = np.eye(latents, width)
    elif path.startswith("controlnet_") and path.endswith("kernel"):
        leaf[0, 0] = np.eye(leaf.shape[-1])
    elif path == "conv_in/kernel":
        leaf[..., :latents] = 0  # the noisy latents use the other channels
    elif path == _last_shortcut(config):
        leaf[:] = 0
        leaf[0, 0, -width:, :latents] = np.eye(width, latents)
    elif path == _last_shortcut(config).replace("kernel", "bias"):
        leaf[latents:] = _CONSTANT * (1 - 2 * (np.arange(width - latents) % 2))
    elif path == "conv_norm_out/bias":
        leaf[:] = SHIFT
    elif path == "conv_out/kernel":
        leaf[:] = 0
        leaf[1, 1, :latents] = -_gain(config) * np.eye(latents, config.out_channels)
        leaf[1, 1, latents:] = _gain(config) / (width - latents)
    elif path == "conv_out/bias":
        constants = SHIFT + np.array([1, -1]) * _CONSTANT / _deviation(config)
        leaf[:] = _gain(config) * (SHIFTED - np.mean(constants / (1 + np.exp(-constants))))
    return leaf


def _deviation(config: UNetConfig) -> float:
    """Deviation of the last norm's input, which the constants on the other channels dominate."""
    share = config.in_channels / config.block_out_channels[0]
    return float(np.sqrt(share + (1 - share) * _CONSTANT**2))


def _gain(config: UNetConfig) -> float:
    """Factor that undoes the last norm and SiLU; the slope of SiLU at SHIFT is s (1 + SHIFT (1 - s))."""
    s = SHIFTED / SHIFT
    return _deviation(config) / (s * (1 + SHIFT * (1 - s)))


def _last_shortcut(config: UNetConfig) -> str:
    """Shortcut of the last residual block, whose input is [features from below, finest skip connection]."""
    levels, layers = len(config.block_out_channels), config.layers_per_block
    return f"up_blocks/{levels - 1}/resnets/{layers}/conv_shortcut/kernel"
