"""Tables of the video UNets: STAR, VEnhancer, VGen's Vid2Vid and I2VGen-XL, and diffusers' I2VGenXLUNet.

All are the same network under different names. VGen's code numbers its blocks consecutively (`input_blocks.4.1`);
diffusers' names are ours up to spelling.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from star_jax.config import StarConfig, UNetConfig
from star_jax.convert.rules import (
    CONVOLUTION,
    CONVOLUTION_NO_BIAS,
    DENSE,
    DENSE_NO_BIAS,
    LINEAR,
    NORM,
    POINT1,
    POINTWISE_1D,
    Module,
    Rule,
    Table,
)
from star_jax.init.leaves import RANDOM, ZEROS


class Block(NamedTuple):
    """A block of the network: its kind (see `_parts`), VGen's name and our path."""

    kind: str
    source: str
    target: str


_SINGLE = {"linear": DENSE, "conv": CONVOLUTION, "norm": NORM}
_ATTENTION = {"to_q": DENSE_NO_BIAS, "to_k": DENSE_NO_BIAS, "to_v": DENSE_NO_BIAS}

# (source module, target module, kind), in the order of PyTorch's state dict.
_TRANSFORMER_BLOCK = (
    *((f"attn1.{name}", f"attn1/{name}", kind) for name, kind in _ATTENTION.items()),
    ("attn1.to_out.0", "attn1/to_out", DENSE),
    ("ff.net.0.proj", "ff/proj_in", DENSE),
    ("ff.net.2", "ff/proj_out", DENSE),
    *((f"attn2.{name}", f"attn2/{name}", kind) for name, kind in _ATTENTION.items()),
    ("attn2.to_out.0", "attn2/to_out", DENSE),
    ("norm1", "norm1", NORM),
    ("norm2", "norm2", NORM),
    ("norm3", "norm3", NORM),
)
_SPATIAL_LIEM = (("local1.conv1", "liem1/conv", CONVOLUTION_NO_BIAS),)
_TEMPORAL_LIEM = (
    ("local1.conv1", "liem1/proj", DENSE_NO_BIAS),
    ("local2.conv1", "liem2/proj", DENSE_NO_BIAS),
)
# `temopral` is the original's spelling. The first layer has no dropout, so its convolution is number 2, not 3.
_TEMPORAL_CONV = tuple(
    (f"temopral_conv.conv{i + 1}.{position}", f"temporal_conv/layers/{i}/{name}", kind)
    for i in range(4)
    for position, name, kind in ((0, "norm", NORM), (2 if i == 0 else 3, "conv", CONVOLUTION))
)
_RESNET = (
    ("in_layers.0", "norm1", NORM),
    ("in_layers.2", "conv1", CONVOLUTION),
    ("emb_layers.1", "time_emb_proj", DENSE),
    ("out_layers.0", "norm2", NORM),
    ("out_layers.3", "conv2", CONVOLUTION),
)


def _encoder(config: UNetConfig) -> Iterator[Block]:
    yield Block("linear", "time_embed.0", "time_embedding/linear_1")
    yield Block("linear", "time_embed.2", "time_embedding/linear_2")
    yield Block("conv", "input_blocks.0.0", "conv_in")
    yield Block("temporal", "input_blocks.0.1", "transformer_in")
    index, width = 0, config.block_out_channels[0]
    for level, channels in enumerate(config.block_out_channels):
        target = f"down_blocks/{level}"
        for layer in range(config.layers_per_block):
            index += 1
            yield from _layer(f"input_blocks.{index}", target, layer, config, level, width != channels)
            width = channels
        if level < len(config.block_out_channels) - 1:
            index += 1
            yield Block("conv", f"input_blocks.{index}.op", f"{target}/downsampler/conv")


def _layer(
    source: str, target: str, layer: int, config: UNetConfig, level: int, shortcut: bool
) -> Iterator[Block]:
    yield Block("resnet_shortcut" if shortcut else "resnet", f"{source}.0", f"{target}/resnets/{layer}")
    if config.attention_levels[level]:
        yield Block("spatial", f"{source}.1", f"{target}/attentions/{layer}")
        yield Block("temporal", f"{source}.2", f"{target}/temp_attentions/{layer}")


def _middle() -> Iterator[Block]:
    yield Block("resnet", "middle_block.0", "mid_block/resnets/0")
    yield Block("spatial", "middle_block.1", "mid_block/attentions/0")
    yield Block("temporal", "middle_block.2", "mid_block/temp_attentions/0")
    yield Block("resnet", "middle_block.3", "mid_block/resnets/1")


def _decoder(config: UNetConfig) -> Iterator[Block]:
    index = -1
    for i, level in enumerate(reversed(range(len(config.block_out_channels)))):
        target = f"up_blocks/{i}"
        for layer in range(config.layers_per_block + 1):
            index += 1
            yield from _layer(f"output_blocks.{index}", target, layer, config, level, shortcut=True)
        if level > 0:
            last = 3 if config.attention_levels[level] else 1
            yield Block("conv", f"output_blocks.{index}.{last}.conv", f"{target}/upsampler/conv")
    yield Block("norm", "out.0", "conv_norm_out")
    yield Block("conv", "out.2", "conv_out")


def _controlnet(config: UNetConfig) -> Iterator[Block]:
    yield from _encoder(config)
    levels = len(config.block_out_channels)
    for i in range(levels * (config.layers_per_block + 1)):
        yield Block("conv", f"zero_convs.{i}.0", f"controlnet_down_blocks/{i}")
    yield from _middle()
    yield Block("conv", "middle_block_out.0", "controlnet_mid_block")
    yield Block("conv", "input_hint_block", "controlnet_cond_embedding")


def _rules(blocks: Iterable[Block], config: UNetConfig, source: str, target: str) -> list[Rule]:
    """Rules of blocks under VGen's names; `source` and `target` are prefixes."""
    return [
        rule
        for block in blocks
        for s, t, module in _parts(block.kind, config)
        for rule in module.rules(f"{source}{block.source}{s}", f"{target}{block.target}{t}")
    ]


def _parts(kind: str, config: UNetConfig) -> list[tuple[str, str, Module]]:
    """(source suffix, target suffix, module) of each module of a block."""
    if kind in _SINGLE:
        return [("", "", _SINGLE[kind])]
    if kind == "spatial":
        parts = _transformer(DENSE, _SPATIAL_LIEM if config.liem.spatial else ())
    elif kind == "temporal":
        liem = _TEMPORAL_LIEM if config.liem.temporal else ()
        # A gate on the block's output needs only one module.
        parts = _transformer(POINTWISE_1D, liem[:1] if config.liem.position == "block_output" else liem)
    else:
        shortcut = (("skip_connection", "conv_shortcut", CONVOLUTION),) if kind == "resnet_shortcut" else ()
        parts = (*_RESNET, *shortcut, *_TEMPORAL_CONV)
    return [(f".{source}", f"/{target}", module) for source, target, module in parts]


def _transformer(projection: Module, liem: tuple) -> tuple:
    block = (
        (f"transformer_blocks.0.{source}", f"block/{target}", module)
        for source, target, module in (*_TRANSFORMER_BLOCK, *liem)
    )
    return (
        ("norm", "norm", NORM),
        ("proj_in", "proj_in", projection),
        *block,
        ("proj_out", "proj_out", projection),
    )


def star_table(config: StarConfig) -> Table:
    """STAR's `light_deg.pt` and `heavy_deg.pt`: base UNet and ControlNet, with LIEM."""
    unet = config.unet
    base = _rules([*_encoder(unet), *_middle(), *_decoder(unet)], unet, "", "unet/")
    return Table((*base, *_rules(_controlnet(unet), unet, "VideoControlNet.", "controlnet/")))


def venhancer_table(config: StarConfig) -> Table:
    """VEnhancer v2, from which STAR's training starts.

    It has no LIEM, and conditions on noise level and scale that STAR lacks.
    """
    return Table(
        star_table(_without_liem(config)).rules,
        ignored=(
            r"VideoControlNet\.hint_time_zero_linear\.(weight|bias)",
            r"VideoControlNet\.scale_cond\.[02]\.(weight|bias)",
        ),
        fresh=_FRESH_LIEM,
    )


def vid2vid_table(config: StarConfig) -> Table:
    """ModelScope's Video-to-Video, VGen's SR600: a base UNet; the ControlNet starts as a copy of its encoder."""
    unet = _without_liem(config).unet
    base = _rules([*_encoder(unet), *_middle(), *_decoder(unet)], unet, "", "unet/")
    copy = _rules([*_encoder(unet), *_middle()], unet, "", "controlnet/")
    return Table((*base, *copy), fresh=(*_FRESH_LIEM, *_FRESH_CONTROL))


def vgen_i2vgen_table(config: StarConfig) -> Table:
    """VGen's UNetSD_I2VGen: like Vid2Vid, without its image and frame-rate conditioning.

    The first convolution takes the channels of the noisy latents, then those of the image. Only the former are
    kept, which is the same as an all-zero image latent.
    """
    table = vid2vid_table(config)
    channels = config.unet.in_channels
    rules = tuple(
        dataclasses.replace(rule, channels=channels) if rule.target.endswith("/conv_in/kernel") else rule
        for rule in table.rules
    )
    return Table(rules, ignored=tuple(rf"{name}\..+" for name in _VGEN_CONDITIONS), fresh=table.fresh)


def diffusers_i2vgen_table(config: StarConfig) -> Table:
    """diffusers' I2VGenXLUNet; see `vgen_i2vgen_table`."""
    table = vgen_i2vgen_table(config)
    rules = tuple(
        dataclasses.replace(
            rule, source=_diffusers_name(rule.target), layout=LINEAR if rule.layout is POINT1 else rule.layout
        )
        for rule in table.rules
    )
    return Table(rules, ignored=tuple(rf"{name}\..+" for name in _DIFFUSERS_CONDITIONS), fresh=table.fresh)


_VGEN_CONDITIONS = (
    "local_image_concat",
    "local_temporal_encoder",
    "local_image_embedding",
    "context_embedding",
    "fps_embedding",
)
_DIFFUSERS_CONDITIONS = (
    "image_latents_proj_in",
    "image_latents_temporal_encoder",
    "image_latents_context_embedding",
    "context_embedding",
    "fps_embedding",
)
_FRESH_LIEM = ((r"(unet|controlnet)/.*/liem[12]/(conv|proj)/kernel", RANDOM),)
_FRESH_CONTROL = ((r"controlnet/controlnet_(down_blocks/\d+|mid_block|cond_embedding)/(kernel|bias)", ZEROS),)
_DIFFUSERS_SPELLING = (
    (r"^(unet|controlnet)/", ""),
    (r"resnets/(\d+)/temporal_conv/layers/0/conv/", r"temp_convs/\1/conv1/2/"),
    (
        r"resnets/(\d+)/temporal_conv/layers/(\d+)/conv/",
        lambda m: f"temp_convs/{m[1]}/conv{int(m[2]) + 1}/3/",
    ),
    (
        r"resnets/(\d+)/temporal_conv/layers/(\d+)/norm/",
        lambda m: f"temp_convs/{m[1]}/conv{int(m[2]) + 1}/0/",
    ),
    (r"/block/", "/transformer_blocks/0/"),
    (r"/to_out/", "/to_out/0/"),
    (r"/ff/proj_in/", "/ff/net/0/proj/"),
    (r"/ff/proj_out/", "/ff/net/2/"),
    (r"/(down|up)sampler/", r"/\1samplers/0/"),
    (r"/(kernel|scale)$", "/weight"),
    (r"/", "."),
)


def _diffusers_name(target: str) -> str:
    for pattern, replacement in _DIFFUSERS_SPELLING:
        target = re.sub(pattern, replacement, target)
    return target


def _without_liem(config: StarConfig) -> StarConfig:
    liem = dataclasses.replace(config.unet.liem, spatial=False, temporal=False)
    return dataclasses.replace(config, unet=dataclasses.replace(config.unet, liem=liem))
