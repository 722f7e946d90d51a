"""The forms of a convolution, and the choice between them. Where the choice is None, Flax's own is best.

Measured on 2 cores in float32 (docs/benchmarks.md): on a CPU, one matrix product is faster for small frames, and
Winograd's filtering for many channels.
"""

from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from star_jax.ops import winograd
from star_jax.ops.plain_convolution import convolve
from star_jax.ops.platform import target_platform
from star_jax.parallel.activations import map_neighbours, on_several_devices, sum_neighbours

_MATMUL_MAX_PIXELS = 128
# The cost of Winograd's transforms grows with the channels, and the saving with their square; transforming the
# weights costs the same for few positions as for many.
_WINOGRAD_MIN_CHANNELS = 160  # harmonic mean of input's and output's: 256 -> 128 pays, 128 -> 128 does not
_WINOGRAD_MIN_ROWS = 128  # rows of each matrix product
_WINOGRAD_MAX_LEFT = 0.6  # share of the multiplications that remains
_WINOGRAD_MAX_CLIP_BYTES = 64 * 2**20  # along frames, the whole clip is filtered at once


def image_form(shape: tuple[int, ...], out_channels: int, dtype: DTypeLike | None) -> str | None:
    """The form of a 3x3 convolution, stride 1, of x [B, F, H, W, in]: `matmul`, `winograd`, or None."""
    batch, frames, height, width, channels = shape
    if target_platform() != "cpu" or on_several_devices():
        return None
    if height * width <= _MATMUL_MAX_PIXELS:
        return "matmul"
    positions = batch * frames * height * width
    return "winograd" if _winograd_pays(width, positions, channels, out_channels, dtype) else None


def convolve_image(
    x: Float[Array, "B F H W C"], kernel: Float[Array, "h w C D"], form: str
) -> Float[Array, "B F H W D"]:
    """Convolves each frame with a 3x3 kernel, stride 1, zero padding of 1.

    Args:
      x: [B, F, H, W, in].
      kernel: [3, 3, in, out], in x's dtype.
      form: `matmul` or `winograd`.

    Returns:
      [B, F, H, W, out].
    """
    return {"matmul": _convolve_as_matmul, "winograd": winograd.convolve_image}[form](x, kernel)


def frames_form(shape: tuple[int, ...], dtype: DTypeLike) -> str:
    """The form of a convolution along the frames of [B, F, H, W, C]: `winograd`, `plane` or `shares`.

    On several devices each convolves its share as a plane. The compiler cannot merge pixels that are split over the
    devices; it could split the 5-D form, but that takes 2.8 times as long on a GPU (docs/gpu.md), and for a TPU it
    gathers whole clips (docs/benchmarks.md).
    """
    batch, frames, height, width, channels = shape
    if on_several_devices():
        return "shares"
    positions = batch * frames * height * width
    is_small = positions * channels * jnp.dtype(dtype).itemsize <= _WINOGRAD_MAX_CLIP_BYTES
    on_cpu = target_platform() == "cpu"
    if on_cpu and is_small and _winograd_pays(frames, positions, channels, channels, dtype):
        return "winograd"
    return "plane"  # faster than the 5-D form on every backend measured


def convolve_frames(
    x: Float[Array, "B F H W C"], kernel: Float[Array, "3 1 1 C D"], *, columns: bool = False
) -> Float[Array, "B F H W D"]:
    """Convolves along frames with a 3-tap kernel, zero padding of one frame on either side.

    Args:
      x: [B, F, H, W, C].
      kernel: [3, 1, 1, C, D], in x's dtype.
      columns: on a mesh, the axis `context` splits the columns, not the frames; see `map_neighbours`.

    Returns:
      [B, F, H, W, D].
    """
    form = frames_form(x.shape, x.dtype)
    if form == "winograd":
        return winograd.convolve_frames(x, kernel[:, 0, 0])
    if form == "shares":
        return _convolve_shares(x, kernel, columns)
    return _convolve_plane(x, kernel, padding=1)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_shares(x: jax.Array, kernel: jax.Array, columns: bool) -> jax.Array:
    """Convolves each device's share of the frames, or of the columns. Both gradients stay on the shares, too."""
    return map_neighbours(partial(_convolve_plane, padding=0), x, kernel, columns=columns)


def _shares_forward(x, kernel, columns):
    return _convolve_shares(x, kernel, columns), (x, kernel)


def _shares_backward(columns, saved, gradient):
    x, kernel = saved
    of_x = _convolve_shares(gradient, jnp.flip(kernel, 0).swapaxes(-2, -1), columns)
    return of_x, sum_neighbours(_kernel_gradient, x, gradient, columns=columns)


_convolve_shares.defvjp(_shares_forward, _shares_backward)


def _kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """Gradient of the kernel [3, 1, 1, C, D], one product a tap: x [B, f + 2, H, W, C], gradient [B, f, H, W, D].

    As a convolution it takes a TPU six times as many cycles, by its compiler's estimate.
    """
    frames = gradient.shape[1]
    taps = [jnp.einsum("bfhwc,bfhwd->cd", x[:, tap : tap + frames], gradient) for tap in range(3)]
    return jnp.stack(taps)[:, None, None]


def _convolve_plane(x: jax.Array, kernel: jax.Array, *, padding: int) -> jax.Array:
    """Convolves [B, F, H, W, C] along frames, with the pixels as one axis and `padding` frames of zeros."""
    pixels = rearrange(x, "b f h w c -> b f (h w) c")
    out = convolve(pixels, kernel[:, :, 0], (1, 1), ((padding, padding), (0, 0)))
    return rearrange(out, "b f (h w) c -> b f h w c", h=x.shape[2])


def _winograd_pays(length: int, positions: int, channels: int, out: int, dtype: DTypeLike | None) -> bool:
    """Whether Winograd's filtering pays along an axis of this length, in a tensor of this many positions."""
    return (
        dtype == jnp.float32  # the transforms lose too many digits in half precision
        and 2 * channels * out / (channels + out) >= _WINOGRAD_MIN_CHANNELS
        and positions >= _WINOGRAD_MIN_ROWS * winograd.TILE
        and winograd.multiplications_left(length) <= _WINOGRAD_MAX_LEFT
    )


def _convolve_as_matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution as one product of patches and weights."""
    height, width, channels = x.shape[-3:]
    padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifts, axis=-1) @ kernel.reshape(9 * channels, -1)
