"""Residual block of the UNet: two spatial convolutions, then a temporal convolution block."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key

from star_jax.models.dropout import draw_masks, dropout, fold_keys
from star_jax.models.layers import Conv2d, GroupNorm, repeat_branches
from star_jax.ops.convolution import convolve_frames


class TemporalConv(nnx.Module):
    """Convolution along frames only, kernel (3, 1, 1), zero padding of one frame on either side.

    With `columns`, a mesh splits the columns of the input, not the frames; see `convolve_frames`.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_init=None,
        columns: bool = False,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        init = kernel_init or nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (3, 1, 1, channels, channels), param_dtype))
        self.bias = nnx.Param(jnp.zeros((channels,), param_dtype))
        self.dtype, self.columns = dtype, columns

    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B F H W D"]:  # [B, F, H, W, C] -> same
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        return convolve_frames(x.astype(self.dtype), kernel, columns=self.columns) + bias


class TemporalConvLayer(nnx.Module):
    """GroupNorm over the whole clip, SiLU, dropout, temporal convolution."""

    def __init__(self, channels: int, *, num_groups: int, dropout: float, kernel_init=None, **kwargs):
        self.norm = GroupNorm(channels, num_groups=num_groups, epsilon=1e-5, over_frames=True, **kwargs)
        self.conv = TemporalConv(channels, kernel_init=kernel_init, **kwargs)
        self.dropout = dropout

    def __call__(
        self, x: Float[Array, "B F H W C"], mask: Bool[Array, "B F H W C"] | None = None
    ) -> Float[Array, "B F H W D"]:
        return self.conv(dropout(self.norm(x, silu=True), self.dropout, mask))


class TemporalConvBlock(nnx.Module):
    """Four temporal layers with a residual (original: `TemporalConvBlock_v2`, key `temopral_conv`)."""

    def __init__(self, channels: int, *, num_groups: int, dropout: float, **kwargs):
        # The first layer has no dropout; the last starts at zero, so that a new block is the identity.
        inits = (None, None, None, nnx.initializers.zeros)
        self.layers = nnx.List(
            [
                TemporalConvLayer(
                    channels, num_groups=num_groups, dropout=dropout, kernel_init=init, **kwargs
                )
                for init in inits
            ]
        )

    def __call__(
        self, x: Float[Array, "B F H W C"], masks: Bool[Array, "3 B F H W C"] | None = None
    ) -> Float[Array, "B F H W C"]:
        h = self.layers[0](x)
        for i, layer in enumerate(self.layers[1:]):
            h = layer(h, None if masks is None else masks[i])
        return x + h


class ResnetBlock(nnx.Module):
    """Spatial residual block conditioned on the timestep, then `TemporalConvBlock` (original: `ResBlock`)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        time_embed_dim: int,
        num_groups: int = 32,
        dropout: float = 0.1,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        kwargs: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        norm_kwargs: dict[str, Any] = {"num_groups": num_groups, "epsilon": 1e-5, **kwargs}
        self.norm1 = GroupNorm(in_channels, **norm_kwargs)
        self.conv1 = Conv2d(in_channels, out_channels, 3, **kwargs)
        self.time_emb_proj = nnx.Linear(time_embed_dim, out_channels, **kwargs)
        self.norm2 = GroupNorm(out_channels, **norm_kwargs)
        self.conv2 = Conv2d(out_channels, out_channels, 3, kernel_init=nnx.initializers.zeros, **kwargs)
        self.conv_shortcut = (
            Conv2d(in_channels, out_channels, 1, **kwargs) if in_channels != out_channels else None
        )
        self.temporal_conv = TemporalConvBlock(out_channels, num_groups=num_groups, dropout=dropout, **kwargs)
        self.dropout = dropout

    def __call__(
        self,
        x: Float[Array, "B F H W C"],
        temb: Float[Array, "_ E"],
        dropout_keys: Key[Array, "4"] | None = None,
    ) -> Float[Array, "B F H W D"]:
        """Applies the block.

        Args:
          x: [B, F, H, W, in_channels].
          temb: [B, time_embed_dim], the same for every frame; x may have several branches of guidance per row.
          dropout_keys: see `block_dropout_keys`; None for inference.

        Returns:
          [B, F, H, W, out_channels].
        """
        h = self.conv1(self.norm1(x, silu=True))
        temb = repeat_branches(self.time_emb_proj(jax.nn.silu(temb)), len(x))
        h = h + temb[:, None, None, None, :]
        masks = draw_masks(dropout_keys, h.shape, self.dropout)
        h = self.norm2(h, silu=True)
        h = self.conv2(dropout(h, self.dropout, None if masks is None else masks[0]))
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return self.temporal_conv(shortcut + h, None if masks is None else masks[1:])


def block_dropout_keys(keys: Key[Array, "*N"]) -> Key[Array, "*N 4"]:
    """The keys of the dropouts in residual blocks: before the second convolution, then of three temporal layers."""
    temporal = fold_keys(fold_keys(keys, (1,)), (1, 2, 3))
    return jnp.concatenate([fold_keys(keys, (0,)), temporal[..., 0, :]], axis=-1)
