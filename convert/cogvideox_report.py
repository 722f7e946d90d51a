"""Descriptions of the sizes of CogVideoX's networks, and the presets that have them."""

import dataclasses

from star_jax.config import ArchitectureConfig
from star_jax.config.cogvideox import CausalVAEConfig, CogVideoXConfig, T5Config, TransformerConfig
from star_jax.convert.cogvideox_sizes import source_rank
from star_jax.convert.tensors import Tensors
from star_jax.presets import PRESETS


def sizes_text(config: ArchitectureConfig, component: str, tensors: Tensors) -> str:
    """The sizes of one network, in one line.

    Args:
      config: sizes that were read from a source's tensors.
      component: `transformer`, `vae` or `text_encoder`.
      tensors: tensors of the source, which show whether it has low-rank updates and a table of positions.
    """
    assert isinstance(config, CogVideoXConfig)
    if component == "vae":
        parts = _autoencoder(config.vae)
    elif component == "text_encoder":
        parts = _text_encoder(config.text_encoder)
    else:
        parts = _transformer(config.transformer, tensors)
    return ", ".join(parts)


def presets_of(config: ArchitectureConfig, component: str) -> list[str]:
    """The presets with this network; the scale of latents, which weights do not show, is ignored."""

    def network(config: ArchitectureConfig):
        sizes = getattr(config, component)
        if component == "transformer":
            return dataclasses.replace(sizes, lora_rank=0)
        return dataclasses.replace(sizes, scaling_factor=1.0) if component == "vae" else sizes

    return [
        name
        for name, preset in PRESETS.items()
        if isinstance(preset, CogVideoXConfig) and network(preset) == network(config)
    ]


def _transformer(sizes: TransformerConfig, tensors: Tensors) -> list[str]:
    grid = "x".join(map(str, sizes.grid))
    has_table = any("pos_embed." in key for key in tensors)
    rank = source_rank(tensors)
    return [
        *_layers(sizes.num_layers, sizes.width, sizes.num_attention_heads, sizes.attention_head_dim),
        f"{sizes.in_channels} channels in and {sizes.out_channels} out",
        f"patches of {sizes.patch_size}x{sizes.patch_size}",
        f"time {sizes.time_embed_dim} wide",
        f"{sizes.text_length} text tokens {sizes.text_embed_dim} wide",
        f"{sizes.positions} positions of {grid} tokens" + ("" if has_table else " (no table in the file)"),
        f"low-rank updates of rank {rank}" if rank else "no low-rank updates",
    ]


def _autoencoder(sizes: CausalVAEConfig) -> list[str]:
    return [
        f"widths {' '.join(map(str, sizes.block_out_channels))}",
        f"{sizes.layers_per_block} blocks a level",
        f"{sizes.latent_channels} latent channels",
        f"{sizes.temporal_factor} frames and {sizes.spatial_factor}x{sizes.spatial_factor} pixels a latent",
    ]


def _text_encoder(sizes: T5Config) -> list[str]:
    return [
        *_layers(sizes.num_hidden_layers, sizes.hidden_size, sizes.num_attention_heads, sizes.head_dim),
        f"feed-forward {sizes.intermediate_size}",
        f"vocabulary of {sizes.vocab_size}",
    ]


def _layers(count: int, width: int, heads: int, head_dim: int) -> list[str]:
    return [f"{count} layers", f"width {width} ({heads} heads of {head_dim})"]
