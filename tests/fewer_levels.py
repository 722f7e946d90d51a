"""The preset `tiny` with two levels in place of four: attention on the coarser, none on the finest, and text."""

import dataclasses

from star_jax.presets import get_preset

_TINY = get_preset("tiny")
FEWER_LEVELS = dataclasses.replace(
    _TINY,
    unet=dataclasses.replace(_TINY.unet, block_out_channels=(16, 32), attention_levels=(False, True)),
)
