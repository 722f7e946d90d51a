"""STAR's base UNet (I2VGen-XL's video UNet without image conditioning), and the encoder that ControlNet shares."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from star_jax.config import UNetConfig
from star_jax.models.attention import KeysValues
from star_jax.models.dropout import fold_keys, key_at
from star_jax.models.i2vgenxl.blocks import BlockSpec, DownBlock, MidBlock, UpBlock
from star_jax.models.layers import Conv2d, GroupNorm, TimestepEmbedding
from star_jax.models.resnet import block_dropout_keys
from star_jax.models.whole_weights import gathered, run_block
from star_jax.ops.attention import AttentionKernels
from star_jax.parallel.activations import split_frames

_MID_KEY = 100  # dropout positions: encoder levels from 0, middle block at 100, decoder levels from 200
_UP_KEY = 200

# Keys and values of a clip's text by part (`down`, `mid`, `up`), block and transformer.
TextProjections = dict[str, list[list[KeysValues]]]


class UNetEncoder(nnx.Module):
    """First convolution, temporal transformer, down levels and middle block, as in base UNet and ControlNet."""

    def __init__(
        self,
        config: UNetConfig,
        *,
        kernels: AttentionKernels = AttentionKernels(),
        remat: str = "none",
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        kwargs: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        widths = config.block_out_channels
        spec = _block_spec(config, kernels, remat)
        self.time_embedding = TimestepEmbedding(widths[0], spec.time_embed_dim, **kwargs)
        self.conv_in = Conv2d(config.in_channels, widths[0], 3, **kwargs)
        self.transformer_in = spec.temporal(widths[0], heads=config.transformer_in_heads, **kwargs)
        self.down_blocks = nnx.List(
            [
                DownBlock(
                    widths[max(i - 1, 0)],
                    width,
                    num_layers=config.layers_per_block,
                    has_attention=config.attention_levels[i],
                    downsample_padding=config.downsample_padding if i < len(widths) - 1 else None,
                    spec=spec,
                    **kwargs,
                )
                for i, width in enumerate(widths)
            ]
        )
        self.mid_block = MidBlock(widths[-1], spec=spec, **kwargs)
        self.dtype, self.remat, self.most_layers = dtype, remat, config.layers_per_block + 1

    def project_text(self, context: Float[Array, "B L E"]) -> TextProjections:
        """Keys and values of a text [B, L, cross_attention_dim], the same at every step."""
        context = context.astype(self.dtype)
        return {
            "down": [block.project_text(context) for block in self.down_blocks],
            "mid": [self.mid_block.project_text(context)],
        }

    def projected(self, context: Float[Array, "N L E"] | TextProjections) -> TextProjections:
        """The projections of a text that is given as embeddings [N, L, E] or already as projections."""
        return context if isinstance(context, dict) else self.project_text(context)

    def encode(
        self,
        sample: Float[Array, "B F H W C"],
        temb: Float[Array, "B E"],
        text: TextProjections,
        *,
        hint: Float[Array, "B F H W D"] | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "N F h w M"], list[Float[Array, "_ F _ _ _"]]]:
        """Runs the encoder and the middle block.

        Args:
          sample: [B, F, H, W, in_channels].
          temb: [B, time_embed_dim].
          text: see `project_text`.
          hint: [B, F, H, W, C0], added after the ControlNet's first convolution; None for the base UNet.
          dropout_key: None for inference.

        Returns:
          Output of the middle block, and the skip connections from fine to coarse.
        """
        keys = level_dropout_keys(dropout_key, (*range(len(self.down_blocks)), _MID_KEY), self.most_layers)
        x = gathered(self.conv_in)(split_frames(sample))
        x = run_block(self.transformer_in, self.remat)(x if hint is None else x + hint)
        skips = [x]
        for i, block in enumerate(self.down_blocks):
            x, block_skips = block(x, temb, text["down"][i], key_at(keys, i))
            skips += block_skips
        return self.mid_block(x, temb, text["mid"][0], key_at(keys, -1)), skips


class UNet(UNetEncoder):
    """Predicts the velocity of video latents from noisy latents, timestep, text and the ControlNet's outputs."""

    def __init__(
        self,
        config: UNetConfig,
        *,
        kernels: AttentionKernels = AttentionKernels(),
        remat: str = "none",
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        kwargs: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(config, kernels=kernels, remat=remat, **kwargs)
        widths, layers = config.block_out_channels, config.layers_per_block
        spec = _block_spec(config, kernels, remat)
        remaining = skip_widths(widths, layers)
        crop_rows = config.downsample_padding[0] - 1
        blocks, x_width = [], widths[-1]
        for i, width in reversed(list(enumerate(widths))):
            channels = []
            for _ in range(layers + 1):
                channels.append((x_width + remaining.pop(), width))
                x_width = width
            blocks.append(
                UpBlock(
                    channels,
                    has_attention=config.attention_levels[i],
                    upsample_crop_rows=crop_rows if i > 0 else None,
                    spec=spec,
                    **kwargs,
                )
            )
        self.up_blocks = nnx.List(blocks)
        self.conv_norm_out = GroupNorm(widths[0], num_groups=config.norm_num_groups, epsilon=1e-5, **kwargs)
        self.conv_out = Conv2d(widths[0], config.out_channels, 3, **kwargs)

    def project_text(self, context: Float[Array, "B L E"]) -> TextProjections:
        up = [block.project_text(context.astype(self.dtype)) for block in self.up_blocks]
        return {**super().project_text(context), "up": up}

    def __call__(
        self,
        sample: Float[Array, "B F H W C"],
        timesteps: Int[Array, " B"],
        context: Float[Array, "N L E"] | TextProjections,
        control: list[Float[Array, "_ F _ _ _"]] | None = None,
        *,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "N F H W C"]:
        """Predicts the velocity, the first result of `features`."""
        return self.features(sample, timesteps, context, control, dropout_key=dropout_key)[0]

    def features(
        self,
        sample: Float[Array, "B F H W C"],
        timesteps: Int[Array, " B"],
        context: Float[Array, "N L E"] | TextProjections,
        control: list[Float[Array, "_ F _ _ _"]] | None = None,
        *,
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "N F H W C"], tuple[Float[Array, "N F _ _ _"], ...]]:
        """Predicts the velocity, and also returns intermediate activations.

        Args:
          sample: noisy latents x_t [B, F, H, W, in_channels]; H must be 2 mod 8 and W 0 mod 8 (four levels).
          timesteps: [B], 0..999.
          context: text embeddings [B, L, cross_attention_dim], or the result of `project_text`.
          control: the ControlNet's outputs: one per skip connection, then one for the middle block.
          dropout_key: None for inference.

        Returns:
          The velocity [B, F, H, W, out_channels]; the outputs of the middle block and of the decoder's levels,
          without the coarsest and the finest.
        """
        temb = gathered(self.time_embedding)(timesteps)
        text = self.projected(context)
        x, skips = self.encode(sample.astype(self.dtype), temb, text, dropout_key=dropout_key)
        if control is not None:
            x = x + control[-1]
            skips = [skip + added for skip, added in zip(skips, control[:-1], strict=True)]
        positions = range(_UP_KEY, _UP_KEY + len(self.up_blocks))
        keys = level_dropout_keys(dropout_key, positions, self.most_layers)
        seen = [x]
        for i, block in enumerate(self.up_blocks):
            taken = [skips.pop() for _ in block.resnets]
            x = block(x, taken, temb, text["up"][i], key_at(keys, i))
            seen.append(x)
        return gathered(self.conv_out)(self.conv_norm_out(x, silu=True)), (seen[0], *seen[2:-1])


def level_dropout_keys(
    key: Key[Array, ""] | None, positions: Sequence[int], layers: int
) -> Key[Array, "levels layers 4"] | None:
    """The keys of all dropouts in the residual blocks of the levels at these positions; None stays None."""
    if key is None:
        return None
    return block_dropout_keys(fold_keys(fold_keys(key, positions), range(layers)))


def _block_spec(config: UNetConfig, kernels: AttentionKernels, remat: str) -> BlockSpec:
    return BlockSpec(
        time_embed_dim=4 * config.block_out_channels[0],
        head_dim=config.attention_head_dim,
        context_dim=config.cross_attention_dim,
        num_groups=config.norm_num_groups,
        dropout=config.dropout,
        spatial_liem=config.liem.position if config.liem.spatial else None,
        temporal_liem=config.liem.position if config.liem.temporal else None,
        kernels=kernels,
        remat=remat,
    )


def skip_widths(widths: tuple[int, ...], layers: int) -> list[int]:
    """Channels of the encoder's skip connections, finest first."""
    skips = [widths[0]]
    for i, width in enumerate(widths):
        skips += [width] * layers
        if i < len(widths) - 1:
            skips.append(width)
    return skips
