"""Tables of CogVideoX's autoencoder: the original layout (STAR's `3d-vae.pt`) and diffusers'."""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from star_jax.config.cogvideox import CausalVAEConfig
from star_jax.convert.rules import CONVOLUTION, NORM, POINTWISE_3D, Module, Table


class Part(NamedTuple):
    """One module under its two names: diffusers', which is also ours, and the original's."""

    kind: Module
    diffusers: str
    original: str


def _norm(diffusers: str, original: str, *, by_latents: bool) -> Iterator[Part]:
    if not by_latents:
        yield Part(NORM, diffusers, original)
        return
    yield Part(NORM, f"{diffusers}.norm_layer", f"{original}.norm_layer")
    for name in ("conv_y", "conv_b"):
        yield Part(POINTWISE_3D, f"{diffusers}.{name}.conv", f"{original}.{name}.conv")


def _resnet(diffusers: str, original: str, *, by_latents: bool, shortcut: bool) -> Iterator[Part]:
    for i in (1, 2):
        yield from _norm(f"{diffusers}.norm{i}", f"{original}.norm{i}", by_latents=by_latents)
        yield Part(CONVOLUTION, f"{diffusers}.conv{i}.conv", f"{original}.conv{i}.conv")
    if shortcut:
        yield Part(POINTWISE_3D, f"{diffusers}.conv_shortcut", f"{original}.nin_shortcut")


def _half(config: CausalVAEConfig, half: str) -> Iterator[Part]:
    """The encoder or the decoder, in the order of the original's state dict."""
    is_decoder = half == "decoder"
    yield Part(CONVOLUTION, f"{half}.conv_in.conv", f"{half}.conv_in.conv")
    levels = list(_levels(config, half))
    middle = [
        part
        for i in (0, 1)
        for part in _resnet(
            f"{half}.mid_block.resnets.{i}",
            f"{half}.mid.block_{i + 1}",
            by_latents=is_decoder,
            shortcut=False,
        )
    ]
    yield from (*middle, *levels) if is_decoder else (*levels, *middle)
    yield from _norm(f"{half}.norm_out", f"{half}.norm_out", by_latents=is_decoder)
    yield Part(CONVOLUTION, f"{half}.conv_out.conv", f"{half}.conv_out.conv")


def _levels(config: CausalVAEConfig, half: str) -> Iterator[Part]:
    is_decoder, last = half == "decoder", len(config.block_out_channels) - 1
    way, layers = ("up", config.layers_per_block + 1) if is_decoder else ("down", config.layers_per_block)
    for level in range(last + 1):  # the original counts its levels from the finest
        block = last - level if is_decoder else level
        widths = config.block_out_channels
        before = widths[min(level + 1, last)] if is_decoder else widths[max(level - 1, 0)]
        names = f"{half}.{way}_blocks.{block}", f"{half}.{way}.{level}"
        for i in range(layers):
            yield from _resnet(
                f"{names[0]}.resnets.{i}",
                f"{names[1]}.block.{i}",
                by_latents=is_decoder,
                shortcut=i == 0 and before != widths[level],
            )
        if level != (0 if is_decoder else last):
            yield Part(CONVOLUTION, f"{names[0]}.{way}samplers.0.conv", f"{names[1]}.{way}sample.conv")


def cogvideox_vae_table(config: CausalVAEConfig, keys: Collection[str]) -> Table:
    """The table of the layout that the source's keys have; the original layout without keys."""
    if "encoder.mid_block.resnets.0.conv1.conv.weight" in keys:
        return diffusers_cogvideox_vae_table(config, keys)
    rules = [
        rule for part in _parts(config) for rule in part.kind.rules(part.original, _target(part.diffusers))
    ]
    return Table(tuple(rules), ignored=(r"(loss|model|conditioner)\..+",))


def diffusers_cogvideox_vae_table(config: CausalVAEConfig, keys: Collection[str]) -> Table:
    """diffusers' AutoencoderKLCogVideoX."""
    del keys
    rules = [
        rule for part in _parts(config) for rule in part.kind.rules(part.diffusers, _target(part.diffusers))
    ]
    return Table(tuple(rules))


def _parts(config: CausalVAEConfig) -> Iterator[Part]:
    yield from _half(config, "encoder")
    yield from _half(config, "decoder")


def _target(diffusers: str) -> str:
    return "vae/" + diffusers.replace(".", "/")
