"""STAR with two levels instead of four and without text tower: every kind of layer, compiled in seconds."""

from star_jax.config import StarConfig, UNetConfig, VAEConfig

TWO_LEVELS = StarConfig(
    "two-levels",
    unet=UNetConfig(
        block_out_channels=(8, 16),
        attention_levels=(False, False),  # the middle has its transformers
        layers_per_block=1,
        attention_head_dim=8,
        transformer_in_heads=1,
        cross_attention_dim=16,
        norm_num_groups=4,
    ),
    vae=VAEConfig(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4),
    text_encoder=None,
)
