"""Tables of CogVideoX's transformer: the layout of STAR and CogVideo ("sat"), and diffusers'.

Our names are diffusers'; equal layers are stacked, so that a leaf has one source per layer. In the sat layout,
queries, keys and values are one tensor, and so are a layer's twelve modulations: shift, scale and gate of attention
and feed-forward for the video, then the same for the text.
"""

import dataclasses
import re
from collections.abc import Collection, Iterator

import numpy as np

from star_jax.config.cogvideox import TransformerConfig
from star_jax.convert.rules import (
    CONV,
    CONVOLUTION,
    CONVOLUTION_NO_BIAS,
    DENSE,
    DENSE_NO_BIAS,
    LINEAR,
    NORM,
    SAME,
    Layout,
    Rule,
    Table,
    Update,
)
from star_jax.init.leaves import RANDOM_LAYERS, ZEROS
from star_jax.models.cogvideox.positions import sincos_table

_ROOT = "transformer/"
_BLOCKS = _ROOT + "transformer_blocks/"
_PROJECTIONS = ("to_q", "to_k", "to_v")
# Indices in a layer's twelve modulations of those for attention (norm1) and those for the feed-forward (norm2).
_MODULATIONS = {"norm1": (0, 1, 2, 6, 7, 8), "norm2": (3, 4, 5, 9, 10, 11)}
_TABLE = Layout(lambda x: x[0], lambda x: x[None])  # (1, tokens, width) <-> (tokens, width)
_FRESH = (
    (_BLOCKS + r"(spatial_liem/conv|temporal_liem/proj)/kernel", RANDOM_LAYERS),
    (_BLOCKS + r"attn1/to_\w+/lora_a", RANDOM_LAYERS),
    (_BLOCKS + r"attn1/to_\w+/lora_b", ZEROS),
)
_IGNORED = (
    r"mixins\.pos_embed\.freqs_(sin|cos)",  # tables, which are computed here
    r"transformer\.position_embeddings\.weight",  # never read
    r"(conditioner|first_stage_model)\..+",  # text encoder and autoencoder in the same file
)


def star_cogvideox_table(config: TransformerConfig, keys: Collection[str]) -> Table:
    """STAR on CogVideoX: LIEM, 32 input channels, and low-rank updates, separate from their weights or merged.

    Args:
      config: sizes; with a `lora_rank` updates are kept separate, else the source's updates are merged.
      keys: keys of the source, without prefix; empty for an export.
    """
    has_updates = any(".matrix_A." in key for key in keys) if keys else bool(config.lora_rank)
    fresh = _FRESH[1:] if config.lora_rank and not has_updates else ()
    return Table(tuple(_sat_rules(config, has_updates, star=True)), _IGNORED, fresh)


def cogvideox_table(config: TransformerConfig, keys: Collection[str]) -> Table:
    """CogVideoX itself, from which training starts: without LIEM, and with only noisy latents as input."""
    if "patch_embed.proj.weight" in keys:
        return diffusers_cogvideox_table(config, keys)
    return Table(tuple(_sat_rules(config, has_updates=False, star=False)), _IGNORED, _FRESH)


def diffusers_cogvideox_table(config: TransformerConfig, keys: Collection[str]) -> Table:
    """diffusers' CogVideoXTransformer3DModel, whose table of positions is computed, not stored."""
    del keys
    rules = [
        dataclasses.replace(rule, source=_diffusers_name(rule.target, rule.layer), part=None)
        for rule in _sat_rules(config, has_updates=False, star=False)
        if not rule.target.endswith("/pos_embedding")
    ]
    computed = {}
    if config.positions == "sincos":
        rows = ((config.text_length, 0), (0, 0))
        computed[_ROOT + "patch_embed/pos_embedding"] = lambda: np.pad(
            sincos_table(config, config.grid), rows
        )
    return Table(tuple(rules), fresh=_FRESH, computed=computed)


def _sat_rules(config: TransformerConfig, has_updates: bool, star: bool) -> Iterator[Rule]:
    """The rules in the order of the original's state dict."""
    embed, output, layers = "mixins.patch_embed.", "mixins.final_layer.", range(config.num_layers)
    if config.positions == "sincos":
        yield Rule("mixins.pos_embed.pos_embedding", _ROOT + "patch_embed/pos_embedding", _TABLE)
    if star:
        yield from CONVOLUTION.rules(embed + "proj_sr", _ROOT + "patch_embed/proj")
    else:
        widened = _widened(config.out_channels, config.in_channels)
        yield Rule(embed + "proj.weight", _ROOT + "patch_embed/proj/kernel", widened)
        yield Rule(embed + "proj.bias", _ROOT + "patch_embed/proj/bias", SAME)
    yield from DENSE.rules(embed + "text_proj", _ROOT + "patch_embed/text_proj")
    for i in layers:
        for key, leaf, layout in DENSE.leaves:
            source = f"mixins.adaln_layer.adaLN_modulations.{i}.1.{key}"
            for norm, chunks in _MODULATIONS.items():
                yield Rule(source, f"{_BLOCKS}{norm}/linear/{leaf}", layout, part=(chunks, 12), layer=i)
    for name, norm in (("query", "norm_q"), ("key", "norm_k")):
        for i in layers:
            yield from _at(
                i, NORM.rules(f"mixins.adaln_layer.{name}_layernorm_list.{i}", f"{_BLOCKS}attn1/{norm}")
            )
    yield from NORM.rules(output + "norm_final", _ROOT + "norm_out/norm")
    yield from DENSE.rules(output + "linear", _ROOT + "proj_out")
    yield from DENSE.rules(output + "adaLN_modulation.1", _ROOT + "norm_out/linear")
    for i in layers:
        yield from _at(i, _layer_rules(config, f"transformer.layers.{i}.", has_updates, star))
    yield from NORM.rules("transformer.final_layernorm", _ROOT + "norm_final")
    yield from DENSE.rules("time_embed.0", _ROOT + "time_embedding/linear_1")
    yield from DENSE.rules("time_embed.2", _ROOT + "time_embedding/linear_2")


def _layer_rules(config: TransformerConfig, source: str, has_updates: bool, star: bool) -> Iterator[Rule]:
    yield from NORM.rules(source + "input_layernorm", _BLOCKS + "norm1/norm")
    yield from _projection_rules(config, source + "attention.query_key_value", _PROJECTIONS, has_updates)
    yield from _projection_rules(config, source + "attention.dense", ("to_out",), has_updates)
    yield from NORM.rules(source + "post_attention_layernorm", _BLOCKS + "norm2/norm")
    yield from DENSE.rules(source + "mlp.dense_h_to_4h", _BLOCKS + "ff/proj_in")
    yield from DENSE.rules(source + "mlp.dense_4h_to_h", _BLOCKS + "ff/proj_out")
    if star and config.liem.spatial:
        yield from CONVOLUTION_NO_BIAS.rules(source + "spa_local.conv1", _BLOCKS + "spatial_liem/conv")
    if star and config.liem.temporal:
        yield from DENSE_NO_BIAS.rules(source + "temp_local.conv1", _BLOCKS + "temporal_liem/proj")


def _projection_rules(
    config: TransformerConfig, source: str, names: tuple[str, ...], has_updates: bool
) -> Iterator[Rule]:
    """Rules of one linear layer of attention, or of several fused ones, with their updates."""
    weight = source + ".original" if has_updates else source
    for key, leaf, layout in DENSE.leaves:
        for j, name in enumerate(names):
            part = (j, len(names)) if len(names) > 1 else None
            merged = key == "weight" and has_updates and not config.lora_rank
            update = Update(f"{source}.matrix_A.{j}", f"{source}.matrix_B.{j}") if merged else None
            yield Rule(f"{weight}.{key}", f"{_BLOCKS}attn1/{name}/{leaf}", layout, part=part, update=update)
    if has_updates and config.lora_rank:
        for matrix in "AB":
            for j, name in enumerate(names):
                target = f"{_BLOCKS}attn1/{name}/lora_{matrix.lower()}"
                yield Rule(f"{source}.matrix_{matrix}.{j}", target, LINEAR)


def _at(layer: int, rules) -> Iterator[Rule]:
    return (dataclasses.replace(rule, layer=layer) for rule in rules)


def _widened(channels: int, wide: int) -> Layout:
    """Layout of a convolution whose additional input channels, for the low resolution, start at zero."""

    def to_jax(x: np.ndarray) -> np.ndarray:
        return np.pad(CONV.to_jax(x), ((0, 0), (0, 0), (0, wide - channels), (0, 0)))

    return Layout(to_jax, lambda x: CONV.to_torch(x)[:, :channels])


_DIFFUSERS_SPELLING = (
    (r"^transformer/", ""),
    (r"/to_out/", "/to_out/0/"),
    (r"/ff/proj_in/", "/ff/net/0/proj/"),
    (r"/ff/proj_out/", "/ff/net/2/"),
    (r"/(kernel|scale)$", "/weight"),
    (r"/", "."),
)


def _diffusers_name(target: str, layer: int | None) -> str:
    target = target.replace("transformer_blocks/", f"transformer_blocks/{layer}/")
    for pattern, replacement in _DIFFUSERS_SPELLING:
        target = re.sub(pattern, replacement, target)
    return target
