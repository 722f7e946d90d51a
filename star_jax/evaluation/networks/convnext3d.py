"""ConvNeXt (Liu et al. 2022), tiny, inflated to videos as in DOVER."""

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax

from star_jax.evaluation.networks.layers import Params, layer_norm, linear, patches

DEPTHS = (3, 3, 9, 3)
TIMES = (1, 3, 1)  # frames that the depthwise convolution spans, in turn from block to block
_EPSILON = 1e-6


def convnext_features(params: Params, name: str, x: jax.Array) -> jax.Array:
    """Features of a video.

    Args:
      params: weights of the network, of which `NAME/...` are used.
      name: path of the backbone.
      x: [B, T, H, W, 3], normalised; T even, H and W multiples of 32.

    Returns:
      [B, T / 2, H / 32, W / 32, C].
    """
    for level, depth in enumerate(DEPTHS):
        down = f"{name}/downsample/{level}"
        if level == 0:
            x = layer_norm(params, f"{down}/norm", patches(params, f"{down}/conv", x, (2, 4, 4)), _EPSILON)
        else:
            x = patches(params, f"{down}/conv", layer_norm(params, f"{down}/norm", x, _EPSILON), (1, 2, 2))
        for index in range(depth):
            x = _block(params, f"{name}/stages/{level}/{index}", x)
    return layer_norm(params, f"{name}/norm", x, _EPSILON)


def _block(params: Params, name: str, x: jax.Array) -> jax.Array:
    y = layer_norm(params, f"{name}/norm", _depthwise(params, f"{name}/depthwise", x), _EPSILON)
    y = jax.nn.gelu(linear(params, f"{name}/expand", y), approximate=False)
    return x + params[f"{name}/scale"] * linear(params, f"{name}/contract", y)


def _depthwise(params: Params, name: str, x: jax.Array) -> jax.Array:
    """A depthwise convolution over time and space, as a sum of convolutions of single frames.

    XLA's convolution over time with channel groups takes minutes on a CPU.
    """
    kernel = params[f"{name}/kernel"]
    batch, time = x.shape[:2]
    half = kernel.shape[0] // 2
    padded = jnp.pad(x, ((0, 0), (half, half), (0, 0), (0, 0), (0, 0)))

    def of_frames(window: jax.Array, start: int) -> jax.Array:
        y = lax.conv_general_dilated(
            rearrange(padded[:, start : start + time], "b t h w c -> (b t) h w c"),
            window,
            (1, 1),
            [(side // 2, side // 2) for side in window.shape[:2]],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
            precision=lax.Precision.HIGHEST,
        )
        return rearrange(y, "(b t) h w c -> b t h w c", b=batch)

    return sum(of_frames(window, start) for start, window in enumerate(kernel)) + params[f"{name}/bias"]
