"""Table of TAESDV (madebyollin/taesdv), whose decoder becomes the light decoder; its encoder is ignored."""

import dataclasses
from collections.abc import Iterator

from star_jax.config import StarConfig, TaesdvConfig
from star_jax.convert.rules import CONVOLUTION, CONVOLUTION_NO_BIAS, Rule, Table


def with_taesdv(config: StarConfig) -> StarConfig:
    """These sizes with TAESDV as the light decoder."""
    return dataclasses.replace(config, light_decoder=TaesdvConfig())


def taesdv_table(config: StarConfig) -> Table:
    """The table of the decoder, a sequence whose numbering includes ReLUs and upsamplings."""
    assert isinstance(config.light_decoder, TaesdvConfig)
    return Table(tuple(_rules(config.light_decoder)), ignored=(r"encoder\..*",))


def _rules(sizes: TaesdvConfig) -> Iterator[Rule]:
    yield from CONVOLUTION.rules("decoder.1", "light_decoder/conv_in")
    position = 3  # after the clamp, the first convolution and its ReLU
    for i, count in enumerate(sizes.layers):
        if i > 0:
            yield from CONVOLUTION_NO_BIAS.rules(f"decoder.{position + 1}", f"light_decoder/ups/{i - 1}")
            position += 2
        for j in range(count):
            for number, place in enumerate((0, 2, 4), start=1):
                target = f"light_decoder/levels/{i}/{j}/conv{number}"
                yield from CONVOLUTION.rules(f"decoder.{position}.conv.{place}", target)
            position += 1
    yield from CONVOLUTION.rules(f"decoder.{position}", "light_decoder/conv_out")
