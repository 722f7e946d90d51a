"""3x3 convolutions of small frames as one matrix product, which XLA runs faster on a CPU."""

import jax
import jax.numpy as jnp

from star_jax.ops.attention import target_platform

# Measured on 2 cores, 8 frames, 1280 channels: 6x4 pixels 34 ms against 68 ms, 10x8 109 against 131; from 18x16
# pixels on the convolution is the faster one.
_MAX_PIXELS = 128


def convolves_faster_as_matmul(
    x: jax.Array, kernel_size: tuple[int, ...], strides: tuple[int, ...] | int | None
) -> bool:
    """Whether `convolve_as_matmul` is the better form for x [B, F, H, W, C] on the platform traced for."""
    is_plain = tuple(kernel_size) == (3, 3) and strides in (1, (1, 1), None)
    return is_plain and target_platform() == "cpu" and x.shape[-3] * x.shape[-2] <= _MAX_PIXELS


def convolve_as_matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 3x3 convolution, stride 1, zero padding of 1, as one product of patches and weights.

    Args:
      x: [B, F, H, W, in].
      kernel: [3, 3, in, out].

    Returns:
      [B, F, H, W, out].
    """
    height, width, channels = x.shape[-3:]
    padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifts, axis=-1) @ kernel.reshape(9 * channels, -1)
