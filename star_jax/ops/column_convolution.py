"""A convolution of few channels whose columns are channels: one along the rows, for a TPU's matrix units.

A TPU's compiler lays out an image of two channels, and the gradient of its weights, with pixels where channels
belong, and moves activations to match. Compiling that took an eighth of a transformer's time.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float


def convolve_columns(
    planes: Float[Array, "N H c W"], kernel: Float[Array, "k k c 1"]
) -> Float[Array, "N H W"]:
    """Convolves images with a square kernel to one channel, stride 1, zeros beyond the edges.

    Args:
      planes: [N, H, c, W], the channels before the columns.
      kernel: [k, k, c, 1], k odd, in the dtype of `planes`.

    Returns:
      [N, H, W].
    """
    size, width = len(kernel), planes.shape[-1]
    # The kernel's entry between two columns, zero where they are further apart.
    apart = jnp.arange(width)[:, None] - jnp.arange(width) + size // 2
    chosen = (apart == jnp.arange(size)[:, None, None]).astype(kernel.dtype)
    between = jnp.einsum("y x c, x v w -> y c v w", kernel[..., 0], chosen)
    return jax.lax.conv_general_dilated(
        rearrange(planes, "n h c w -> n h (c w)"),
        rearrange(between, "y c v w -> y (c v) w"),
        (1,),
        [(size // 2, size // 2)],
        dimension_numbers=("NHC", "HIO", "NHC"),
    )
