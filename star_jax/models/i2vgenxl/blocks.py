"""Levels of the UNet: residual blocks with their transformers, followed by down- or upsampling."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from star_jax.models.attention import KeysValues
from star_jax.models.dropout import key_at
from star_jax.models.i2vgenxl.transformers import SpatialTransformer, TemporalTransformer
from star_jax.models.layers import Downsample, Upsample, repeat_branches
from star_jax.models.resnet import ResnetBlock
from star_jax.models.whole_weights import gathered, run_block
from star_jax.ops.attention import AttentionKernels
from star_jax.parallel.activations import split_frames


@dataclass(frozen=True)
class BlockSpec:
    """Options that all layers of a network share (all but the channels): sizes, LIEM, attention kernels, remat."""

    time_embed_dim: int
    head_dim: int
    context_dim: int
    num_groups: int
    dropout: float
    spatial_liem: str | None
    temporal_liem: str | None
    kernels: AttentionKernels
    remat: str

    def resnet(self, in_channels: int, out_channels: int, **kwargs) -> ResnetBlock:
        return ResnetBlock(
            in_channels,
            out_channels,
            time_embed_dim=self.time_embed_dim,
            num_groups=self.num_groups,
            dropout=self.dropout,
            **kwargs,
        )

    def spatial(self, channels: int, **kwargs) -> SpatialTransformer:
        return SpatialTransformer(
            channels,
            head_dim=self.head_dim,
            context_dim=self.context_dim,
            num_groups=self.num_groups,
            liem_position=self.spatial_liem,
            kernels=self.kernels,
            **kwargs,
        )

    def temporal(self, channels: int, heads: int | None = None, **kwargs) -> TemporalTransformer:
        return TemporalTransformer(
            channels,
            head_dim=self.head_dim,
            heads=heads,
            num_groups=self.num_groups,
            liem_position=self.temporal_liem,
            kernels=self.kernels,
            **kwargs,
        )


class _Level(nnx.Module):
    """Residual blocks, each followed by a spatial and a temporal transformer where the level has attention."""

    def __init__(self, channels: list[tuple[int, int]], *, spec: BlockSpec, num_attentions: int, **kwargs):
        self.resnets = nnx.List([spec.resnet(i, o, **kwargs) for i, o in channels])
        widths = [o for _, o in channels[:num_attentions]]
        self.attentions = nnx.List([spec.spatial(width, **kwargs) for width in widths])
        self.temp_attentions = nnx.List([spec.temporal(width, **kwargs) for width in widths])
        self.remat = spec.remat

    def project_text(self, context: jax.Array) -> list[KeysValues]:
        """Keys and values of text [B, L, context_dim] for each of the level's transformers."""
        return [gathered(attention).project_text(context) for attention in self.attentions]

    def run_layer(
        self, i: int, x: jax.Array, temb: jax.Array, text: list[KeysValues], dropout_keys: jax.Array | None
    ) -> jax.Array:
        x = split_frames(run_block(self.resnets[i], self.remat)(x, temb, key_at(dropout_keys, i)))
        if i < len(self.attentions):
            x = run_block(self.attentions[i], self.remat)(x, text[i])
            x = run_block(self.temp_attentions[i], self.remat)(x)
        return x


class DownBlock(_Level):
    """One level of the encoder, which returns every layer's output for the skip connections."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_layers: int,
        has_attention: bool,
        downsample_padding: tuple[int, int] | None,
        spec: BlockSpec,
        **kwargs,
    ):
        channels = [(in_channels if j == 0 else out_channels, out_channels) for j in range(num_layers)]
        super().__init__(channels, spec=spec, num_attentions=num_layers if has_attention else 0, **kwargs)
        self.downsampler = (
            Downsample(out_channels, padding=downsample_padding, **kwargs) if downsample_padding else None
        )

    def __call__(
        self,
        x: Float[Array, "B F H W C"],
        temb: Float[Array, "_ E"],
        text: list[KeysValues],
        dropout_keys: Key[Array, "layers 4"] | None = None,
    ) -> tuple[Float[Array, "N F h w D"], list[Float[Array, "_ F _ _ _"]]]:
        """[B, F, H, W, C] -> (output, outputs of each layer and of the downsampler)."""
        skips = []
        for i in range(len(self.resnets)):
            x = self.run_layer(i, x, temb, text, dropout_keys)
            skips.append(x)
        if self.downsampler is not None:
            x = gathered(self.downsampler)(x)
            skips.append(x)
        return x, skips


class MidBlock(_Level):
    """Residual block, spatial and temporal transformer, residual block."""

    def __init__(self, channels: int, *, spec: BlockSpec, **kwargs):
        super().__init__([(channels, channels)] * 2, spec=spec, num_attentions=1, **kwargs)

    def __call__(
        self,
        x: Float[Array, "N F H W C"],
        temb: Float[Array, "_ E"],
        text: list[KeysValues],
        dropout_keys: Key[Array, "layers 4"] | None = None,
    ) -> Float[Array, "N F H W C"]:
        for i in range(2):
            x = self.run_layer(i, x, temb, text, dropout_keys)
        return x


class UpBlock(_Level):
    """One level of the decoder, in which every layer takes one skip connection, concatenated after its input."""

    def __init__(
        self,
        channels: list[tuple[int, int]],
        *,
        has_attention: bool,
        upsample_crop_rows: int | None,
        spec: BlockSpec,
        **kwargs,
    ):
        num_attentions = len(channels) if has_attention else 0
        super().__init__(channels, spec=spec, num_attentions=num_attentions, **kwargs)
        width = channels[-1][1]
        self.upsampler = (
            None if upsample_crop_rows is None else Upsample(width, crop_rows=upsample_crop_rows, **kwargs)
        )

    def __call__(
        self,
        x: Float[Array, "N F H W C"],
        skips: list[Float[Array, "_ F _ _ _"]],
        temb: Float[Array, "_ E"],
        text: list[KeysValues],
        dropout_keys: Key[Array, "layers 4"] | None = None,
    ) -> Float[Array, "N F h w D"]:
        """Runs the level on [B, F, H, W, C]; `skips` come in the order of use."""
        for i, skip in enumerate(skips):
            x = jnp.concatenate([x, repeat_branches(skip, len(x))], axis=-1)
            x = self.run_layer(i, x, temb, text, dropout_keys)
        return x if self.upsampler is None else gathered(self.upsampler)(x)
