"""Sizes of the smallest whole model: an autoencoder, a UNet without attention, and no text."""

from typing import Any

from star_jax.config import StarConfig, UNetConfig, VAEConfig


def dwarf(
    latent_channels: int,
    channels: int,
    groups: int,
    vae_channels: tuple[int, ...],
    *,
    levels: int = 2,
    **others: Any,
) -> StarConfig:
    """The preset `dwarf`: `levels` of `channels` in the UNet, a level of the autoencoder per `vae_channels`."""
    return StarConfig(
        "dwarf",
        unet=UNetConfig(
            in_channels=latent_channels,
            out_channels=latent_channels,
            block_out_channels=(channels,) * levels,
            attention_levels=(False,) * levels,
            layers_per_block=1,
            attention_head_dim=4,
            transformer_in_heads=1,
            cross_attention_dim=4,
            norm_num_groups=groups,
        ),
        vae=VAEConfig(
            latent_channels=latent_channels,
            block_out_channels=vae_channels,
            layers_per_block=1,
            norm_num_groups=2,
        ),
        text_encoder=None,
        **others,
    )
