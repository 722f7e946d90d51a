"""Tables of Stable Video Diffusion's VAE: diffusers' AutoencoderKLTemporalDecoder, and the original layout.

Our names are diffusers'. The original (`first_stage_model.` in Stability AI's file) has other names and no
`quant_conv`, which is folded into the encoder's last convolution; ours then becomes the identity.
"""

from collections.abc import Iterator
from typing import NamedTuple

from star_jax.config import StarConfig, VAEConfig
from star_jax.convert.rules import (
    CONVOLUTION,
    DENSE,
    NORM,
    POINTWISE_2D,
    SAME,
    Module,
    Rule,
    Table,
)
from star_jax.init.leaves import IDENTITY, ZEROS


class Part(NamedTuple):
    """One module under its two names: diffusers', which is also ours, and the original's."""

    kind: Module
    diffusers: str
    original: str


def _resnet(diffusers: str, original: str, *, shortcut: bool) -> Iterator[Part]:
    yield Part(NORM, f"{diffusers}.norm1", f"{original}.norm1")
    yield Part(CONVOLUTION, f"{diffusers}.conv1", f"{original}.conv1")
    yield Part(NORM, f"{diffusers}.norm2", f"{original}.norm2")
    yield Part(CONVOLUTION, f"{diffusers}.conv2", f"{original}.conv2")
    if shortcut:
        yield Part(CONVOLUTION, f"{diffusers}.conv_shortcut", f"{original}.nin_shortcut")


_MIX_FACTOR = Module((("mix_factor", "mix_factor", SAME),))


def _video_resnet(diffusers: str, original: str, *, shortcut: bool) -> Iterator[Part]:
    yield from _resnet(f"{diffusers}.spatial_res_block", original, shortcut=shortcut)
    temporal, stack = f"{diffusers}.temporal_res_block", f"{original}.time_stack"
    yield Part(NORM, f"{temporal}.norm1", f"{stack}.in_layers.0")
    yield Part(CONVOLUTION, f"{temporal}.conv1", f"{stack}.in_layers.2")
    yield Part(NORM, f"{temporal}.norm2", f"{stack}.out_layers.0")
    yield Part(CONVOLUTION, f"{temporal}.conv2", f"{stack}.out_layers.3")
    yield Part(_MIX_FACTOR, f"{diffusers}.time_mixer", original)


def _middle(half: str, resnet) -> Iterator[Part]:
    yield from resnet(f"{half}.mid_block.resnets.0", f"{half}.mid.block_1", shortcut=False)
    attention, original = f"{half}.mid_block.attentions.0", f"{half}.mid.attn_1"
    yield Part(NORM, f"{attention}.group_norm", f"{original}.norm")
    for name in "qkv":
        yield Part(DENSE, f"{attention}.to_{name}", f"{original}.{name}")
    yield Part(DENSE, f"{attention}.to_out.0", f"{original}.proj_out")
    yield from resnet(f"{half}.mid_block.resnets.1", f"{half}.mid.block_2", shortcut=False)


def _parts(config: VAEConfig) -> Iterator[Part]:
    widths = config.block_out_channels
    last = len(widths) - 1
    yield Part(CONVOLUTION, "encoder.conv_in", "encoder.conv_in")
    width = widths[0]
    for i, channels in enumerate(widths):
        for j in range(config.layers_per_block):
            names = f"encoder.down_blocks.{i}.resnets.{j}", f"encoder.down.{i}.block.{j}"
            yield from _resnet(*names, shortcut=width != channels)
            width = channels
        if i < last:
            yield Part(
                CONVOLUTION,
                f"encoder.down_blocks.{i}.downsamplers.0.conv",
                f"encoder.down.{i}.downsample.conv",
            )
    yield from _middle("encoder", _resnet)
    yield Part(NORM, "encoder.conv_norm_out", "encoder.norm_out")
    yield Part(CONVOLUTION, "encoder.conv_out", "encoder.conv_out")
    yield Part(CONVOLUTION, "decoder.conv_in", "decoder.conv_in")
    yield from _middle("decoder", _video_resnet)
    for i, channels in enumerate(reversed(widths)):
        level = last - i  # the original counts its levels from the finest
        for j in range(config.layers_per_block + 1):
            names = f"decoder.up_blocks.{i}.resnets.{j}", f"decoder.up.{level}.block.{j}"
            yield from _video_resnet(*names, shortcut=width != channels)
            width = channels
        if i < last:
            yield Part(
                CONVOLUTION,
                f"decoder.up_blocks.{i}.upsamplers.0.conv",
                f"decoder.up.{level}.upsample.conv",
            )
    yield Part(NORM, "decoder.conv_norm_out", "decoder.norm_out")
    yield Part(CONVOLUTION, "decoder.conv_out", "decoder.conv_out")
    yield Part(CONVOLUTION, "decoder.time_conv_out", "decoder.conv_out.time_mix_conv")


def _target(diffusers: str) -> str:
    return "vae/" + diffusers.replace(".", "/")


def diffusers_vae_table(config: StarConfig) -> Table:
    """diffusers' AutoencoderKLTemporalDecoder, in fp32 or fp16."""
    parts = [*_parts(config.vae), Part(CONVOLUTION, "quant_conv", "")]
    rules = (rule for part in parts for rule in part.kind.rules(part.diffusers, _target(part.diffusers)))
    return Table(tuple(rules))


def original_vae_table(config: StarConfig) -> Table:
    """Stability AI's file of SVD: the first stage, without UNet and conditioners."""
    rules: list[Rule] = []
    for part in _parts(config.vae):
        # The original's attention projects with 1x1 convolutions.
        kind = POINTWISE_2D if part.kind is DENSE else part.kind
        rules += kind.rules(part.original, _target(part.diffusers))
    return Table(
        tuple(rules),
        ignored=(r"(model|conditioner|denoiser|loss)\..+", r"model_ema\..+"),
        fresh=((r"vae/quant_conv/kernel", IDENTITY), (r"vae/quant_conv/bias", ZEROS)),
    )
