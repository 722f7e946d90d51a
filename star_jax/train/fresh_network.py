"""A fresh UNet and ControlNet that hand the low-resolution latents on: left to learn is how to improve them.

At the noisy end the velocity is nearly minus the clean latents, and the low resolution's are the first guess of
those. The first channels of the finest level are kept for them: the ControlNet's zero convolutions, which protect a
trained base network from a fresh ControlNet, start open (there is nothing to protect, and two of them in a row pass
no gradient), the last skip connection hands on what comes through, and the output reads it. Residual branches and
transformers end in zeros anyway. Whatever has no part in it starts at random.
"""

import numpy as np

from star_jax.config import UNetConfig
from star_jax.train.fresh_vae import SHIFT, SHIFTED


def guess_leaf(config: UNetConfig, path: str, leaf: np.ndarray) -> np.ndarray:
    """A weight of the ControlNet or the UNet.

    Args:
      config: sizes; the finest level needs more channels than the latents, else leaves stay as they are.
      path: in the tree, such as `conv_in/kernel`.
      leaf: as its layer starts it.
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
        leaf[..., :latents] = 0  # the noisy latents take the other channels
    elif path == _last_shortcut(config):
        leaf[..., :latents] = 0
        leaf[0, 0, -width:] += np.eye(width)
    elif path == "conv_norm_out/bias":
        leaf[:] = SHIFT
    elif path == "conv_out/kernel":
        leaf[:] = 0
        leaf[1, 1] = -np.eye(width, config.out_channels)
    elif path == "conv_out/bias":
        leaf[:] = SHIFTED
    return leaf


def _last_shortcut(config: UNetConfig) -> str:
    """Of the last residual block, whose input is [what comes from below, the finest skip connection]."""
    levels, layers = len(config.block_out_channels), config.layers_per_block
    return f"up_blocks/{levels - 1}/resnets/{layers}/conv_shortcut/kernel"
