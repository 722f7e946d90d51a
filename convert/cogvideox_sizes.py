"""Sizes of CogVideoX's networks, read from the shapes of a source's tensors (and its tables), never from a name.

Published files are not always what their names say, and networks of the same layout differ only in these sizes.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from star_jax.config.cogvideox import CogVideoXConfig, TransformerConfig
from star_jax.convert.tensors import Tensors
from star_jax.errors import InputError
from star_jax.presets import PRESETS


def with_lora(transformer: TransformerConfig, tensors: Tensors, lora: str | int) -> TransformerConfig:
    """Sizes with the requested low-rank updates.

    Args:
      transformer: sizes.
      tensors: tensors of the source.
      lora: `merge` the source's updates into their weights, `keep` them apart, or the rank of new ones.

    Raises:
      InputError: `lora` is none of these, the source has no updates to keep, or its updates have another rank.
    """
    rank = source_rank(tensors)
    if lora == "merge":
        return dataclasses.replace(transformer, lora_rank=0)
    if lora == "keep":
        if not rank:
            raise InputError(
                "lora is keep, but the source has no low-rank updates; give a rank to start new ones"
            )
        return dataclasses.replace(transformer, lora_rank=rank)
    if not isinstance(lora, int) or lora < 1 or (rank and lora != rank):
        known = f"; the source has rank {rank}" if rank else ""
        raise InputError(f"lora is {lora!r}; choose merge, keep, or the rank of new updates{known}")
    return dataclasses.replace(transformer, lora_rank=lora)


def source_rank(tensors: Tensors) -> int:
    """Rank of a source's low-rank updates; 0 if it has none."""
    first = next((tensor for key, tensor in tensors.items() if key.endswith(".matrix_A.0")), None)
    return first.shape[0] if first is not None and first.shape else 0


def published(preset: str) -> CogVideoXConfig:
    """Sizes of the published networks of a CogVideoX preset."""
    config = PRESETS[preset]
    assert isinstance(config, CogVideoXConfig)
    return config


def transformer(config: CogVideoXConfig, tensors: Tensors, settings: Mapping) -> CogVideoXConfig:
    """Sizes of a transformer in either layout."""
    of_layout = diffusers_transformer if "patch_embed.proj.weight" in tensors else sat_transformer
    return of_layout(config, tensors, settings)


def sat_transformer(config: CogVideoXConfig, tensors: Tensors, settings: Mapping) -> CogVideoXConfig:
    """Sizes of a transformer in the layout of STAR or CogVideo, from tensors without prefix."""
    del settings
    shape = {key: tensor.shape for key, tensor in tensors.items()}
    embed = next(
        name
        for name in ("mixins.patch_embed.proj_sr", "mixins.patch_embed.proj")
        if f"{name}.weight" in shape
    )
    width, channels, patch, _ = _need(shape, f"{embed}.weight", axes=4)
    head = _head_size(shape, "mixins.adaln_layer.query_layernorm_list.0.weight", width)
    transformer = dataclasses.replace(
        config.transformer,
        in_channels=channels * (1 if embed.endswith("_sr") else 2),
        out_channels=_need(shape, "mixins.final_layer.linear.weight", axes=2)[0] // patch**2,
        patch_size=patch,
        num_layers=_count(shape, r"transformer\.layers\.(\d+)\.input_layernorm\.weight"),
        num_attention_heads=width // head,
        attention_head_dim=head,
        time_embed_dim=_need(shape, "time_embed.0.weight", axes=2)[0],
        text_embed_dim=_need(shape, "mixins.patch_embed.text_proj.weight", axes=2)[1],
    )
    return _placed(config, _with_table(_checked(transformer, f"{embed}.weight"), tensors))


def _head_size(shape: Mapping[str, tuple], key: str, width: int) -> int:
    """Channels of a head, from the norm of its queries.

    Raises:
      InputError: they do not divide the width.
    """
    (head,) = _need(shape, key, axes=1)
    if not head or width % head:
        raise InputError(
            f"{key} has {head} channels, which do not divide the width {width}; download it again"
        )
    return head


def _checked(transformer: TransformerConfig, key: str) -> TransformerConfig:
    """The same sizes, if the network can take the noisy and the low-resolution latents.

    Raises:
      InputError: it cannot.
    """
    taken, given = transformer.in_channels // 2, transformer.out_channels
    if taken != given:
        raise InputError(
            f"{key} takes {taken} channels per clip, but the network returns {given}; give a text-to-video "
            "network, in which both are equal (unlike in an image-to-video network)"
        )
    return transformer


def _with_table(transformer: TransformerConfig, tensors: Tensors) -> TransformerConfig:
    """The sizes with the kind of positions and the grid of the source's table."""
    head, width = transformer.attention_head_dim, transformer.width
    added, turned = (tensors.get(f"mixins.pos_embed.{name}") for name in ("pos_embedding", "freqs_cos"))
    if added is not None:
        transformer = dataclasses.replace(transformer, positions="sincos")
        if added.shape[1] == _rows(transformer):
            return transformer
        table = added.read()[0].astype(np.float32)
        length = int(np.argmax(np.any(table != 0, axis=1)))
        space = width // 4, width // 8 * 3
        grid = _grid(table[length:], columns=slice(space[0], sum(space)), rows=slice(sum(space), width))
        stretch = _stretch(float(table[length + 1, space[0]]), added.dtype) if grid[2] > 1 else 1.0
        return dataclasses.replace(transformer, text_length=length, grid=grid, spatial_interpolation=stretch)
    transformer = dataclasses.replace(transformer, positions="rotary")
    if turned is None or turned.shape[0] == _rows(transformer) - transformer.text_length:
        return transformer
    by_frame, by_side = head // 4, head // 8 * 3
    rows, columns = slice(by_frame, by_frame + by_side), slice(by_frame + by_side, head)
    return dataclasses.replace(transformer, grid=_grid(turned.read().astype(np.float32), columns, rows))


def _stretch(sine: float, dtype: np.dtype) -> float:
    """Divisor of the positions, from the sine of the second one; a published value if it matches that sine."""
    rounding = 2 * float(ml_dtypes.finfo(dtype).eps)
    for known in (published("cogvideox-2b").transformer.spatial_interpolation, 1.0):
        if abs(np.sin(1 / known) - sine) < rounding:
            return known
    return round(1 / float(np.arcsin(sine)), 3)


def _rows(transformer: TransformerConfig) -> int:
    return transformer.text_length + int(np.prod(transformer.grid))


def _grid(table: np.ndarray, columns: slice, rows: slice) -> tuple[int, int, int]:
    """(frames, rows, columns) of a table in the order (frame, row, column), from the periods of its parts."""
    same = [np.isclose(table[:, part], table[0, part], atol=1e-2).all(1) for part in (columns, rows)]
    width = _period(same[0])
    plane = _period(same[0] & same[1])
    return len(table) // plane, plane // width, width


def _period(same: np.ndarray) -> int:
    later = np.flatnonzero(same[1:])
    return int(later[0]) + 1 if len(later) else len(same)


def diffusers_transformer(config: CogVideoXConfig, tensors: Tensors, settings: Mapping) -> CogVideoXConfig:
    """Sizes of diffusers' transformer; only `settings`, its config.json, gives the kind of positions.

    Without it, a network of 2B's size is taken to have 2B's kind.
    """
    shape = {key: tensor.shape for key, tensor in tensors.items()}
    width, channels, patch, _ = _need(shape, "patch_embed.proj.weight", axes=4)
    head = _head_size(shape, "transformer_blocks.0.attn1.norm_q.weight", width)
    small, layers = (
        published("cogvideox-2b").transformer,
        _count(shape, r"transformer_blocks\.(\d+)\.norm1\..*"),
    )
    is_small = (width, layers) == (small.width, small.num_layers)
    rotary = settings.get("use_rotary_positional_embeddings", not is_small)
    transformer = dataclasses.replace(
        config.transformer,
        in_channels=2 * channels,
        out_channels=_need(shape, "proj_out.weight", axes=2)[0] // patch**2,
        patch_size=patch,
        num_layers=layers,
        num_attention_heads=width // head,
        attention_head_dim=head,
        time_embed_dim=_need(shape, "time_embedding.linear_1.weight", axes=2)[0],
        text_embed_dim=_need(shape, "patch_embed.text_proj.weight", axes=2)[1],
        text_length=settings.get("max_text_seq_length", config.transformer.text_length),
        positions="rotary" if rotary else "sincos",
        grid=_settings_grid(config, settings, patch),
        spatial_interpolation=settings.get("spatial_interpolation_scale", small.spatial_interpolation),
    )
    return _placed(config, _checked(transformer, "patch_embed.proj.weight"))


def _settings_grid(config: CogVideoXConfig, settings: Mapping, patch: int) -> tuple[int, int, int]:
    if not {"sample_height", "sample_width", "sample_frames"} <= settings.keys():
        return config.transformer.grid
    frames = (settings["sample_frames"] - 1) // config.vae.temporal_factor + 1
    return frames, settings["sample_height"] // patch, settings["sample_width"] // patch


def _placed(config: CogVideoXConfig, transformer: TransformerConfig) -> CogVideoXConfig:
    """The configuration with this transformer, and with the schedule and latent scale of its kind of positions.

    Raises:
      InputError: positions of that kind cannot be divided over the head size or the width.
    """
    turned = transformer.positions == "rotary"
    heads, size = transformer.num_attention_heads, transformer.attention_head_dim
    if (size if turned else heads * size) % 16:
        raise InputError(
            f"the network has {heads} heads of {size} channels; {transformer.positions} positions need a multiple "
            f"of 16 channels {'per head' if turned else 'in all'}"
        )
    like = published("cogvideox-5b" if transformer.positions == "rotary" else "cogvideox-2b")
    vae = dataclasses.replace(config.vae, scaling_factor=like.vae.scaling_factor)
    return dataclasses.replace(config, transformer=transformer, vae=vae, diffusion=like.diffusion)


def vae(config: CogVideoXConfig, tensors: Tensors, settings: Mapping) -> CogVideoXConfig:
    """Sizes of an autoencoder in either layout."""
    shape = {key: tensor.shape for key, tensor in tensors.items()}
    is_library = "encoder.down_blocks.0.resnets.0.conv1.conv.weight" in shape
    level, block = ("down_blocks", "resnets") if is_library else ("down", "block")
    widths = [
        _need(shape, f"encoder.{level}.{i}.{block}.0.conv1.conv.weight", axes=5)[0]
        for i in range(_count(shape, rf"encoder\.{level}\.(\d+)\..*"))
    ]
    ratio = settings.get("temporal_compression_ratio", config.vae.temporal_factor)
    sizes = dataclasses.replace(
        config.vae,
        in_channels=_need(shape, "encoder.conv_in.conv.weight", axes=5)[1],
        out_channels=_need(shape, "decoder.conv_out.conv.weight", axes=5)[0],
        latent_channels=_need(shape, "decoder.conv_in.conv.weight", axes=5)[1],
        block_out_channels=tuple(widths),
        layers_per_block=_count(shape, rf"encoder\.{level}\.0\.{block}\.(\d+)\..*"),
        norm_num_groups=settings.get("norm_num_groups", config.vae.norm_num_groups),
        temporal_levels=min(int(ratio).bit_length() - 1, len(widths) - 1),
        scaling_factor=settings.get("scaling_factor", config.vae.scaling_factor),
    )
    if any(width % sizes.norm_num_groups for width in widths):
        raise InputError(
            f"widths {widths} are not multiples of the {sizes.norm_num_groups} groups of norms; give the number of "
            "groups in a config.json beside the weights (norm_num_groups), or all sizes with --preset FILE.json"
        )
    return dataclasses.replace(config, vae=sizes)


def text_encoder(config: CogVideoXConfig, tensors: Tensors, settings: Mapping) -> CogVideoXConfig:
    """Sizes of T5's encoder."""
    shape = {key: tensor.shape for key, tensor in tensors.items()}
    first = "encoder.block.0.layer.0.SelfAttention."
    buckets, heads = _need(shape, first + "relative_attention_bias.weight", axes=2)
    vocabulary, width = _need(shape, "shared.weight", axes=2)
    sizes = dataclasses.replace(
        config.text_encoder,
        vocab_size=vocabulary,
        hidden_size=width,
        head_dim=_need(shape, first + "q.weight", axes=2)[0] // heads,
        intermediate_size=_need(shape, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", axes=2)[0],
        num_hidden_layers=_count(shape, r"encoder\.block\.(\d+)\..*"),
        num_attention_heads=heads,
        num_buckets=buckets,
        max_distance=settings.get("relative_attention_max_distance", config.text_encoder.max_distance),
    )
    return dataclasses.replace(config, text_encoder=sizes)


def named(config: CogVideoXConfig) -> CogVideoXConfig:
    """The configuration, named after the preset with the same networks, if any; separate updates do not count."""

    def networks(config: CogVideoXConfig) -> CogVideoXConfig:
        transformer = dataclasses.replace(config.transformer, lora_rank=0)
        return dataclasses.replace(config, preset="", transformer=transformer)

    for preset in PRESETS.values():
        if isinstance(preset, CogVideoXConfig) and networks(preset) == networks(config):
            return dataclasses.replace(config, preset=preset.preset, sampling=preset.sampling)
    return dataclasses.replace(config, preset="cogvideox")


def library_settings(files: tuple[Path, ...]) -> dict:
    """The content of config.json beside a library's weights; empty if there is none."""
    path = files[0].parent / "config.json" if files else None
    if path is None or not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); download it again, or remove it") from error
    return settings if isinstance(settings, dict) else {}


def _need(shape: Mapping[str, tuple], key: str, *, axes: int) -> tuple:
    if key not in shape:
        raise InputError(f"the source lacks {key}, which its sizes are read from; download it again")
    if len(shape[key]) != axes or not all(shape[key]):
        raise InputError(
            f"{key} is {shape[key]}, expected {axes} axes; give CogVideoX 1.0 (1.5 has other patches)"
        )
    return shape[key]


def _count(shape: Mapping[str, tuple], pattern: str) -> int:
    """One more than the highest number in the matching keys.

    Raises:
      InputError: no key matches.
    """
    numbers = [int(match[1]) for key in shape if (match := re.fullmatch(pattern, key))]
    if not numbers:
        raise InputError(f"the source has no key like {pattern}; download it again")
    return max(numbers) + 1


def cogvideox_library_config(layout: str, config: CogVideoXConfig) -> dict:
    """config.json for `from_pretrained` of diffusers or transformers; the inverse of `library_settings`."""
    if layout == "t5-encoder":
        text = config.text_encoder
        return {
            "architectures": ["T5EncoderModel"],
            "model_type": "t5",
            "vocab_size": text.vocab_size,
            "d_model": text.hidden_size,
            "d_kv": text.head_dim,
            "d_ff": text.intermediate_size,
            "num_layers": text.num_hidden_layers,
            "num_heads": text.num_attention_heads,
            "relative_attention_num_buckets": text.num_buckets,
            "relative_attention_max_distance": text.max_distance,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
        }
    if layout == "diffusers-cogvideox-vae":
        autoencoder, levels = config.vae, len(config.vae.block_out_channels)
        return {
            "_class_name": "AutoencoderKLCogVideoX",
            "in_channels": autoencoder.in_channels,
            "out_channels": autoencoder.out_channels,
            "latent_channels": autoencoder.latent_channels,
            "block_out_channels": autoencoder.block_out_channels,
            "down_block_types": ["CogVideoXDownBlock3D"] * levels,
            "up_block_types": ["CogVideoXUpBlock3D"] * levels,
            "layers_per_block": autoencoder.layers_per_block,
            "norm_num_groups": autoencoder.norm_num_groups,
            "temporal_compression_ratio": autoencoder.temporal_factor,
            "scaling_factor": autoencoder.scaling_factor,
        }
    sizes = config.transformer
    frames, rows, columns = sizes.grid
    return {
        "_class_name": "CogVideoXTransformer3DModel",
        "num_attention_heads": sizes.num_attention_heads,
        "attention_head_dim": sizes.attention_head_dim,
        "in_channels": sizes.out_channels,
        "out_channels": sizes.out_channels,
        "time_embed_dim": sizes.time_embed_dim,
        "text_embed_dim": sizes.text_embed_dim,
        "num_layers": sizes.num_layers,
        "sample_width": columns * sizes.patch_size,
        "sample_height": rows * sizes.patch_size,
        "sample_frames": (frames - 1) * config.vae.temporal_factor + 1,
        "patch_size": sizes.patch_size,
        "max_text_seq_length": sizes.text_length,
        "spatial_interpolation_scale": sizes.spatial_interpolation,
        "use_rotary_positional_embeddings": sizes.positions == "rotary",
    }
