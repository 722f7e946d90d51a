"""A light decoder: latents and low-resolution frames in, high-resolution frames out.

    y = enlarge(low) + linear(latents, low) + rest(latents, low, fidelity)

The linear part is one convolution, which least squares can find (`star_jax.train.decoder.start`); `rest` adds what
a linear map cannot express. It consists of convolutions and ReLUs without norms, and does nearly all of its work at
an eighth (the latents' grid) and a quarter of the output's size. Each block at the latents' grid remembers its
input at the previous frame, as in TAESDV (madebyollin/taesdv), so that a clip can be decoded whole or frame by
frame with the same result. The low-resolution frames supply what the latents lose; FlashVSR's decoder (arXiv
2510.12747) sees them, too. Pixel shuffles bring the result to the output's size.

`fidelity` chooses between two extremes with one set of weights: at 1 the mean of all plausible frames, which is
close to the ground truth and smooth; at 0 plausible detail. Training draws it at random for every clip
(`star_jax.train.decoder.objective`).
"""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from star_jax.config import LightDecoderConfig
from star_jax.models.layers import Conv2d
from star_jax.ops.pixels import enlarge

COMPONENT = "light_decoder"  # name of the component
LOW_FACTOR = 4  # pixels of the output per pixel of the frames that the decoder sees, along each axis
_REST_SCALE = 0.3  # without it, an optimizer such as Adam would move the output too far in its first steps
LINEAR_WINDOW = 5  # side of the square of latents that the linear part sees
Memory = tuple[jax.Array, ...]  # input of each memory block at the previous frame, [B, 1, h, w, C]

_RESIDUAL_INIT = nnx.initializers.variance_scaling(0.1, "fan_in", "truncated_normal")


class ResidualBlock(nnx.Module):
    """x + conv(relu(conv(x))) on each frame."""

    def __init__(self, channels: int, **kwargs: Any):
        self.conv1 = Conv2d(channels, channels, 3, **kwargs)
        self.conv2 = Conv2d(channels, channels, 3, kernel_init=_RESIDUAL_INIT, **kwargs)

    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B F H W C"]:
        return x + self.conv2(jax.nn.relu(self.conv1(x)))


class MemoryBlock(nnx.Module):
    """x + conv(relu(conv([x, x of the previous frame])))."""

    def __init__(self, channels: int, **kwargs: Any):
        self.conv1 = Conv2d(2 * channels, channels, 3, **kwargs)
        self.conv2 = Conv2d(channels, channels, 3, kernel_init=_RESIDUAL_INIT, **kwargs)

    def __call__(
        self, x: Float[Array, "B F H W C"], before: Float[Array, "B 1 H W C"]
    ) -> tuple[Float[Array, "B F H W C"], Float[Array, "B 1 H W C"]]:
        """The output, and the memory for the next frame."""
        past = jnp.concatenate([before, x[:, :-1]], axis=1)
        hidden = jax.nn.relu(self.conv1(jnp.concatenate([x, past], axis=-1)))
        return x + self.conv2(hidden), x[:, -1:]


class LightDecoder(nnx.Module):
    """Light decoder; see the module. Latents have an eighth of the output's height and width, frames a quarter."""

    def __init__(
        self,
        config: LightDecoderConfig,
        latent_channels: int,
        *,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        kwargs: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        coarse, middle, fine = config.channels
        self.config, self.dtype = config, dtype
        zeros = nnx.initializers.zeros
        self.linear = Conv2d(latent_channels + 4 * 3, 64 * 3, LINEAR_WINDOW, kernel_init=zeros, **kwargs)
        # Inputs: latents, low-resolution frames on their grid (2x2 pixels in the channels), and a plane of
        # fidelity.
        self.conv_in = Conv2d(latent_channels + 4 * 3 + 1, coarse, 3, **kwargs)
        self.coarse = nnx.List([MemoryBlock(coarse, **kwargs) for _ in range(config.blocks[0])])
        self.up_middle = Conv2d(coarse, 4 * middle, 3, **kwargs)
        self.low_in = Conv2d(3 + 1, middle, 3, **kwargs)
        self.middle = nnx.List([ResidualBlock(middle, **kwargs) for _ in range(config.blocks[1])])
        self.up_fine = Conv2d(middle, 4 * fine, 3, **kwargs)
        self.fine = nnx.List([ResidualBlock(fine, **kwargs) for _ in range(config.blocks[2])])
        self.conv_out = Conv2d(fine, 4 * 3, 3, kernel_init=zeros, **kwargs)

    def __call__(
        self,
        latents: Float[Array, "B F h w C"],
        low: Float[Array, "B F l m 3"],
        fidelity: Float[Array, " B"],
        memory: Memory | None = None,
    ) -> tuple[Float[Array, "B F H W 3"], Memory]:
        """Decodes frames.

        Args:
          latents: scaled latents [B, F, h, w, C] (of about unit deviation), as the network predicts them.
          low: low-resolution frames [B, F, 2h, 2w, 3] in [-1, 1].
          fidelity: [B], from 0 (plausible detail) to 1 (closeness to the ground truth).
          memory: memory that the previous call returned; None at a clip's first frame.

        Returns:
          Frames [B, F, 8h, 8w, 3], roughly in [-1, 1], float32; the memory for the next frames.
        """
        if memory is None:
            memory = self.start(latents.shape)
        size = (LOW_FACTOR * low.shape[2], LOW_FACTOR * low.shape[3])
        plane = jnp.broadcast_to(fidelity[:, None, None, None, None], (*low.shape[:4], 1))
        planes = jnp.concatenate([low, plane], axis=-1).astype(self.dtype)
        packed = pack(planes[..., :3])
        seen = jnp.concatenate([latents.astype(self.dtype), packed], axis=-1)
        linear = _shuffle(self.linear(seen), 2 * LOW_FACTOR)
        x = self.conv_in(jnp.concatenate([seen, planes[:, :, ::2, ::2, 3:]], axis=-1))
        after = []
        for block, before in zip(self.coarse, memory, strict=True):
            x, kept = block(x, before)
            after.append(kept)
        x = jax.nn.relu(_shuffle(self.up_middle(jax.nn.relu(x))) + self.low_in(planes))
        for refine in self.middle:
            x = refine(x)
        x = jax.nn.relu(_shuffle(self.up_fine(x)))
        for refine in self.fine:
            x = refine(x)
        rest = _shuffle(self.conv_out(x)).astype(jnp.float32)
        frames = enlarge(low.astype(jnp.float32), size) + linear.astype(jnp.float32)
        return frames + _REST_SCALE * rest, tuple(after)

    def start(self, latent_shape: tuple[int, ...]) -> Memory:
        """The memory at a clip's first frame, for latents [B, F, h, w, C]: zeros."""
        batch, _, height, width, _ = latent_shape
        zeros = jnp.zeros((batch, 1, height, width, self.config.channels[0]), self.dtype)
        return (zeros,) * self.config.blocks[0]


def pack(low: Float[Array, "B F l m C"]) -> Float[Array, "B F h w D"]:
    """Low-resolution frames on the latents' grid, with 2x2 pixels in the channels."""
    return rearrange(low, "b f (h i) (w j) c -> b f h w (i j c)", i=2, j=2)


def unpack(packed: Float[Array, "B F h w D"]) -> Float[Array, "B F l m C"]:
    """The inverse of `pack`."""
    return _shuffle(packed)


def values_per_pixel(config: LightDecoderConfig) -> float:
    """Values that the compiled decoder holds at once, per pixel of the output's frames."""
    _, middle, fine = config.channels
    return 3 * middle / 16 + 2 * fine / 4 + 4


def _shuffle(x: Float[Array, "B F h w D"], factor: int = 2) -> Float[Array, "B F H W C"]:
    """Moves factor x factor groups of channels into pixels (pixel shuffle)."""
    return rearrange(x, "b f h w (i j c) -> b f (h i) (w j) c", i=factor, j=factor)
