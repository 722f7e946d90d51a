"""The smallest network that whole training steps are compiled for: its middle has every kind of transformer."""

import dataclasses

from two_levels import TWO_LEVELS

from star_jax.presets import PRESETS

ONE_LEVEL = dataclasses.replace(
    TWO_LEVELS,
    preset="one-level",
    unet=dataclasses.replace(TWO_LEVELS.unet, block_out_channels=(8,), attention_levels=(False,)),
    # One residual block a level in the decoder, and none in the encoder.
    vae=dataclasses.replace(TWO_LEVELS.vae, block_out_channels=(8, 8), layers_per_block=0),
)
PRESETS["one-level"] = ONE_LEVEL
