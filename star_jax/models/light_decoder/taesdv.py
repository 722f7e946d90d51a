"""TAESDV, a small decoder of Stable Video Diffusion's latents (madebyollin/taesdv).

It consists of convolutions and ReLUs on four grids, from that of the latents to that of the output. Each block also
sees its input at the previous frame, so that a clip can be decoded whole or in pieces with the same result. It sees
only latents, not the low-resolution frames, so it suits any model with these latents without training.
"""

from typing import Any

import jax
import jax.numpy as jnp
from einops import repeat
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from star_jax.config import TaesdvConfig
from star_jax.models.layers import Conv2d
from star_jax.models.light_decoder.decoder import Memory

_RANGE = 3.0  # latents are squashed softly into [-3, 3]


class TaesdvBlock(nnx.Module):
    """relu(x + three convolutions of [x, x of the previous frame])."""

    def __init__(self, channels: int, **kwargs: Any):
        self.conv1 = Conv2d(2 * channels, channels, 3, **kwargs)
        self.conv2 = Conv2d(channels, channels, 3, **kwargs)
        self.conv3 = Conv2d(channels, channels, 3, **kwargs)

    def __call__(
        self, x: Float[Array, "B F H W C"], before: Float[Array, "B 1 H W C"]
    ) -> tuple[Float[Array, "B F H W C"], Float[Array, "B 1 H W C"]]:
        """The output, and the memory for the next frame."""
        past = jnp.concatenate([before, x[:, :-1]], axis=1)
        hidden = jax.nn.relu(self.conv1(jnp.concatenate([x, past], axis=-1)))
        return jax.nn.relu(x + self.conv3(jax.nn.relu(self.conv2(hidden)))), x[:, -1:]


class Taesdv(nnx.Module):
    """TAESDV's decoder; see the module."""

    def __init__(
        self,
        config: TaesdvConfig,
        latent_channels: int,
        *,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        kwargs: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        width = config.width
        self.config, self.dtype = config, dtype
        self.conv_in = Conv2d(latent_channels, width, 3, **kwargs)
        self.levels = nnx.List(
            [nnx.List([TaesdvBlock(width, **kwargs) for _ in range(count)]) for count in config.layers]
        )
        self.ups = nnx.List([Conv2d(width, width, 3, use_bias=False, **kwargs) for _ in config.layers[1:]])
        self.conv_out = Conv2d(width, 3, 3, **kwargs)

    def __call__(
        self, latents: Float[Array, "B F h w C"], memory: Memory | None = None
    ) -> tuple[Float[Array, "B F H W 3"], Memory]:
        """Decodes frames.

        Args:
          latents: scaled latents [B, F, h, w, C] (of about unit deviation), as the network predicts them.
          memory: memory that the previous call returned; None at a clip's first frame.

        Returns:
          Frames [B, F, 8h, 8w, 3], roughly in [-1, 1], float32; the memory for the next frames.
        """
        memory = self.start(latents.shape) if memory is None else memory
        befores, after = iter(memory), []
        x = jax.nn.relu(self.conv_in(_RANGE * jnp.tanh(latents.astype(self.dtype) / _RANGE)))
        for i, level in enumerate(self.levels):
            if i > 0:
                x = self.ups[i - 1](repeat(x, "b f h w c -> b f (h i) (w j) c", i=2, j=2))
            for block in level:
                x, kept = block(x, next(befores))
                after.append(kept)
        return 2 * self.conv_out(x).astype(jnp.float32) - 1, tuple(after)

    def start(self, latent_shape: tuple[int, ...]) -> Memory:
        """The memory at a clip's first frame, for latents [B, F, h, w, C]: zeros."""
        batch, _, rows, columns, _ = latent_shape
        return tuple(
            jnp.zeros((batch, 1, rows << i, columns << i, self.config.width), self.dtype)
            for i, count in enumerate(self.config.layers)
            for _ in range(count)
        )


def values_per_pixel(config: TaesdvConfig) -> float:
    """Values that the compiled decoder holds at once, per pixel of the output's frames."""
    return 5.0 * config.width
