"""Initial weights that make an autoencoder a picture pyramid: means and differences down, smooth interpolation up.

With random layers, an autoencoder spends its first thousand steps on learning to pass a picture through. This start
gives it that: the strided convolutions take means and differences of 2x2 pixels (Haar's), so that the latents hold
the colours of each 8x8 block and of its quarters; upsampling smooths; every residual branch ends in zeros. The last
norms work where SiLU is nearly straight, and have constants among their channels, without which they would remove a
picture's contrast. All other weights start at random.
"""

import numpy as np

from star_jax.config import VAEConfig

_COLORS = 3
SHIFT = 3.0  # shift of the last norms' outputs; SiLU is nearly straight there: silu(3 + x) ~ 2.86 + 1.09 x
SHIFTED = SHIFT / (1 + np.exp(-SHIFT))
_CONSTANT = 1.5
_LOGVAR = -8.0  # log variance of a posterior with little noise
# Of 2x2 pixels: mean, difference of columns, of rows, of diagonals.
_HAAR = np.array([[[1, 1], [1, 1]], [[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]]]) / 4
_SMOOTH = np.outer([1, 2, 1], [1, 2, 1]) / 16


def pyramid_leaf(config: VAEConfig, path: str, leaf: np.ndarray) -> np.ndarray:
    """Initial value of a weight of the autoencoder.

    Args:
      config: sizes.
      path: path in the tree, such as `encoder/conv_in/kernel`.
      leaf: the weight as its layer initialises it.
    """
    *_, owner, name = parts = path.split("/")
    last = len(config.block_out_channels) - 2  # the last level with an upsampling, or a downsampling
    if "conv2" in path or "to_out" in path:
        return np.zeros_like(leaf)
    if owner == "conv_norm_out":
        return np.full_like(leaf, SHIFT) if name == "bias" else leaf
    if "samplers" in path and name == "bias":
        is_last = f"_blocks/{last}/" in path
        return _constants(leaf, 4 * _COLORS if parts[0] == "encoder" else _COLORS) if is_last else leaf
    if name != "kernel":
        return _offset(config, path, leaf)
    if "downsamplers" in path:
        return _haar(leaf)
    if "upsamplers" in path:
        return _SMOOTH[..., None, None] * np.eye(*leaf.shape[-2:], dtype=leaf.dtype)
    if owner in ("conv_shortcut", "quant_conv", "time_conv_out", "conv_in"):
        return _through(leaf)
    if owner == "conv_out":
        return _read_out(config, parts[0], leaf)
    return leaf


def _through(leaf: np.ndarray) -> np.ndarray:
    """A kernel that passes its channels through."""
    kernel = np.zeros_like(leaf)
    kernel[tuple(size // 2 for size in leaf.shape[:-2])] = np.eye(*leaf.shape[-2:])
    return kernel


def _haar(leaf: np.ndarray) -> np.ndarray:
    """A kernel whose first outputs are means and differences of its first inputs, the colours."""
    kernel = leaf.copy()
    for band, taps in enumerate(_HAAR):
        for color in range(_COLORS):
            output = band * _COLORS + color
            if output < leaf.shape[-1]:
                kernel[..., output] = 0
                kernel[:2, :2, color, output] = taps
    return kernel


def _constants(leaf: np.ndarray, num_signals: int) -> np.ndarray:
    """Biases of alternating sign on the channels without (strong) signals."""
    channels = np.arange(len(leaf))
    return np.where(channels < num_signals, 0.0, _CONSTANT * (1 - 2.0 * (channels % 2))).astype(leaf.dtype)


def _read_out(config: VAEConfig, part: str, leaf: np.ndarray) -> np.ndarray:
    """Output kernels: the decoder reads colours, the encoder means and differences; other latents are random."""
    if part == "decoder":
        return _through(leaf)
    kernel, signals = leaf.copy(), min(4 * _COLORS, config.latent_channels)
    kernel[..., config.latent_channels :] = 0
    kernel[..., :signals] = _through(leaf)[..., :signals]
    return kernel


def _offset(config: VAEConfig, path: str, leaf: np.ndarray) -> np.ndarray:
    """Biases of the outputs, which undo the shift of the norm and set the log variances."""
    if path == "decoder/conv_out/bias":
        return np.full_like(leaf, -SHIFTED)
    if path == "encoder/conv_out/bias":
        channels = np.arange(len(leaf))
        means = np.where(channels < 4 * _COLORS, -SHIFTED, 0.0)
        return np.where(channels < config.latent_channels, means, _LOGVAR).astype(leaf.dtype)
    return leaf
