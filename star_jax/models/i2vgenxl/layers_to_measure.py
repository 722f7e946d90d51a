"""Single layers of the networks and the VAE, at the sizes that a clip gives them, for `LayersToMeasure`."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from star_jax.config import StarConfig, UNetConfig
from star_jax.models.attention import FeedForward, KeysValues
from star_jax.models.i2vgenxl.transformers import SpatialTransformer, TemporalTransformer
from star_jax.models.layers import GroupNorm
from star_jax.models.part import Part
from star_jax.models.resnet import ResnetBlock
from star_jax.models.svd_vae.blocks import Attention, ResnetBlock2D, SpatioTemporalResBlock

TEXT_LENGTH = 77


class _Silu(nnx.Module):
    """A group normalisation followed by SiLU."""

    def __init__(self, channels: int, **kwargs):
        self.norm = GroupNorm(channels, epsilon=1e-5, **kwargs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(x, silu=True)


def operation_parts(
    config: StarConfig, latents: tuple[int, int, int], dtype: jnp.dtype, vae_dtype: jnp.dtype
) -> Iterator[Part]:
    """The smallest layers in which the forms of each operation differ, at the finest level with attention."""
    unet, vae = config.unet, config.vae
    level = unet.attention_levels.index(True)
    width, head_dim = unet.block_out_channels[level], unet.attention_head_dim
    size = _level_sizes(unet, latents)[level]
    video = jax.ShapeDtypeStruct((1, latents[0], *size, width), dtype)
    make = functools.partial(functools.partial, **_types(dtype))
    groups: dict[str, Any] = {"num_groups": unet.norm_num_groups}
    yield Part("GEGLU feed-forward", make(FeedForward, width), (video,), operations=("geglu",))
    for scope, over_frames in (("frame", False), ("clip", True)):
        norm = make(_Silu, width, over_frames=over_frames, **groups)
        yield Part(f"norm and SiLU per {scope}", norm, (video,), operations=("group_norm",))
    temporal = make(TemporalTransformer, width, head_dim=head_dim, **groups)
    operations = ("frames_attention", "short_attention")
    yield Part("temporal transformer", temporal, (video,), operations=operations)
    coarse = vae.block_out_channels[-1]
    attention = functools.partial(Attention, coarse, num_groups=vae.norm_num_groups, **_types(vae_dtype))
    frames = jax.ShapeDtypeStruct((1, 3, *latents[1:], coarse), vae_dtype)
    yield Part("VAE attention of 3 frames", attention, (frames,), operations=("wide_attention",))


def layer_parts(config: StarConfig, latents: tuple[int, int, int], dtype: jnp.dtype) -> Iterator[Part]:
    """One residual block, spatial and temporal transformer of each level of the UNet."""
    unet = config.unet
    heads_of, groups = unet.attention_head_dim, unet.norm_num_groups
    make = functools.partial(functools.partial, **_types(dtype))
    sizes = _level_sizes(unet, latents)
    time_dim, layers = 4 * unet.block_out_channels[0], unet.layers_per_block
    for level, (size, width) in enumerate(zip(sizes, unet.block_out_channels, strict=True)):
        is_last = level + 1 == len(sizes)
        video = jax.ShapeDtypeStruct((1, latents[0], *size, width), dtype)
        # Two encoders and a decoder; the middle blocks count towards the coarsest level.
        count = 2 * layers + layers + 1
        resnet = make(ResnetBlock, width, width, time_embed_dim=time_dim, num_groups=groups)
        temb = jax.ShapeDtypeStruct((1, time_dim), dtype)
        yield Part(f"level {level} residual block", resnet, (video, temb), count + 4 * is_last)
        attended = count * unet.attention_levels[level] + 2 * is_last
        if not attended:
            continue
        tokens: Any = jax.ShapeDtypeStruct((1, TEXT_LENGTH, width // heads_of, heads_of), dtype)
        spatial = make(
            SpatialTransformer,
            width,
            head_dim=heads_of,
            context_dim=unet.cross_attention_dim,
            num_groups=groups,
        )
        inputs = (video, KeysValues(tokens, tokens))
        yield Part(f"level {level} spatial transformer", spatial, inputs, attended)
        temporal = make(TemporalTransformer, width, head_dim=heads_of, num_groups=groups)
        # The transformer after the first convolution is nearly as large as the finest level's.
        yield Part(f"level {level} temporal transformer", temporal, (video,), attended + 2 * (level == 0))


def vae_parts(
    config: StarConfig, latents: tuple[int, int, int], decoder_dtype: jnp.dtype, encoder_dtype: jnp.dtype
) -> Iterator[Part]:
    """One residual block of each level of the VAE's decoder and of its encoder, on three frames."""
    vae = config.vae
    blocks = (("decoder", SpatioTemporalResBlock, decoder_dtype), ("encoder", ResnetBlock2D, encoder_dtype))
    for kind, block, dtype in blocks:
        make = functools.partial(functools.partial, block, num_groups=vae.norm_num_groups, **_types(dtype))
        for level, width in enumerate(vae.block_out_channels):
            factor = vae.spatial_factor // 2**level
            video = jax.ShapeDtypeStruct((1, 3, latents[1] * factor, latents[2] * factor, width), dtype)
            yield Part(f"VAE {kind} level {level} residual block", make(width, width), (video,))


def _level_sizes(config: UNetConfig, latents: tuple[int, int, int]) -> list[tuple[int, int]]:
    """(height, width) of each level, as the strided convolutions leave them."""
    sizes = [latents[1:]]
    for _ in config.block_out_channels[1:]:
        sides = zip(sizes[-1], config.downsample_padding, strict=True)
        height, width = ((side + 2 * padding - 3) // 2 + 1 for side, padding in sides)
        sizes.append((height, width))
    return sizes


def _types(dtype: jnp.dtype) -> dict[str, Any]:
    return {"dtype": dtype, "param_dtype": dtype}
