"""The families of checkpoints that can be converted: how each is recognised, and its table."""

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from star_jax.config import ArchitectureConfig, StarConfig
from star_jax.config.cogvideox import CogVideoXConfig
from star_jax.convert import (
    cogvideox_sizes,
    cogvideox_tables,
    cogvideox_vae_tables,
    light_decoder_tables,
    t5_tables,
    text_tables,
    unet_tables,
    vae_tables,
)
from star_jax.convert.rules import Rule, Table, Update
from star_jax.convert.tensors import Tensors
from star_jax.errors import InputError
from star_jax.models.architectures import build_model


@dataclass(frozen=True)
class Family:
    """One kind of checkpoint.

    Attributes:
      description: description for reports.
      components: components that it fills.
      marks: keys that every source of the family has.
      absent: keys that must be absent, to distinguish it from similar families.
      table: (sizes, the source's keys without prefix) -> table.
      prefixes: possible prefixes of the keys of the converted part.
      other_marks: keys of the family's second layout, if it has one.
      export_prefix: prefix of every key of an export without an original file.
      sizes: (sizes so far, tensors without prefix, content of config.json) -> sizes of the source; None if the
        sizes are a preset's.
      part: adds the family's component to sizes of presets, which do not have it.
    """

    description: str
    components: tuple[str, ...]
    marks: tuple[str, ...]
    table: Callable[[Any, Collection[str]], Table]
    absent: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ("",)
    other_marks: tuple[str, ...] = ()
    export_prefix: str = ""
    sizes: Callable[[CogVideoXConfig, Tensors, dict], CogVideoXConfig] | None = None
    part: Callable[[StarConfig], StarConfig] | None = None

    def prefix_in(self, keys: Collection[str]) -> str | None:
        """The prefix under which `keys` have this family's marks, or None."""
        for prefix in self.prefixes:
            kinds = [marks for marks in (self.marks, self.other_marks) if marks]
            if any(all(prefix + mark in keys for mark in marks) for marks in kinds):
                return None if any(prefix + key in keys for key in self.absent) else prefix
        return None

    def completed(self, config: ArchitectureConfig) -> ArchitectureConfig:
        """A preset's sizes with the component that the family adds, if any."""
        return self.part(config) if self.part is not None and isinstance(config, StarConfig) else config

    def in_preset(self, config: ArchitectureConfig) -> bool:
        """Whether a model of these sizes has the components that this family fills."""
        is_right = isinstance(config, CogVideoXConfig) == (self.sizes is not None)
        return is_right and set(self.components) <= set(build_model(config).components)

    def table_for(self, config: ArchitectureConfig, keys: Collection[str]) -> Table:
        """The table of this family for a source's keys, with their prefix.

        Raises:
          InputError: a model of these sizes lacks a component of the family.
        """
        if not self.in_preset(config):
            raise InputError(
                f"preset {config.preset!r} has no {' and '.join(self.components)}; choose another preset"
            )
        prefix = (self.prefix_in(keys) or "") if keys else self.export_prefix
        table = self.table(config, {key.removeprefix(prefix) for key in keys})
        if not prefix:
            return table
        rules = tuple(_prefixed(rule, prefix) for rule in table.rules)
        ignored = tuple(f"(?:{prefix})?{pattern}" for pattern in table.ignored)
        return Table(rules, ignored, table.fresh, table.computed)


def _prefixed(rule: Rule, prefix: str) -> Rule:
    update = rule.update and Update(*(prefix + key for key in rule.update))
    return dataclasses.replace(rule, source=prefix + rule.source, update=update)


def _sized(table: Callable[[StarConfig], Table]) -> Callable[[StarConfig, Collection[str]], Table]:
    return lambda config, _keys: table(config)


def _of(part: str, table: Callable[[Any, Collection[str]], Table]):
    """Adapts a table function that takes the sizes of one network only."""
    return lambda config, keys: table(getattr(config, part), keys)


_SAT, _SAT_TEXT = "model.diffusion_model.", "conditioner.embedders.0.transformer."
_LIEM_KEY = "input_blocks.0.1.transformer_blocks.0.local1.conv1.weight"
_CONTROL_KEY = "VideoControlNet.input_hint_block.weight"
_NETWORKS = ("unet", "controlnet")

_DIFFUSERS_COGVIDEOX = ("patch_embed.proj.weight", "transformer_blocks.0.norm1.linear.weight")
_DIFFUSERS_COGVIDEOX_VAE = ("decoder.up_blocks.0.resnets.0.norm1.conv_y.conv.weight",)

# The families are tried in this order.
FAMILIES: dict[str, Family] = {
    "star": Family(
        "STAR: base UNet and ControlNet with LIEM",
        _NETWORKS,
        marks=("input_blocks.0.0.weight", _CONTROL_KEY, _LIEM_KEY),
        table=_sized(unet_tables.star_table),
        prefixes=("", "module."),
    ),
    "venhancer": Family(
        "VEnhancer: base UNet and ControlNet without LIEM",
        _NETWORKS,
        marks=("input_blocks.0.0.weight", _CONTROL_KEY),
        absent=(_LIEM_KEY,),
        table=_sized(unet_tables.venhancer_table),
        prefixes=("", "module."),
    ),
    "i2vgen-xl": Family(
        "I2VGen-XL, VGen's UNetSD_I2VGen: initialises base UNet and ControlNet",
        _NETWORKS,
        marks=("input_blocks.0.0.weight", "local_image_concat.0.weight"),
        table=_sized(unet_tables.vgen_i2vgen_table),
        prefixes=("", "module."),
    ),
    "vid2vid": Family(
        "ModelScope Video-to-Video / VGen Vid2Vid: initialises base UNet and ControlNet",
        _NETWORKS,
        marks=("input_blocks.0.0.weight", "input_blocks.1.0.temopral_conv.conv1.2.weight"),
        absent=(_CONTROL_KEY, _LIEM_KEY, "local_image_concat.0.weight"),
        table=_sized(unet_tables.vid2vid_table),
        prefixes=("", "module."),
    ),
    "diffusers-i2vgen-xl": Family(
        "I2VGen-XL, diffusers' I2VGenXLUNet: initialises base UNet and ControlNet",
        _NETWORKS,
        marks=("conv_in.weight", "image_latents_proj_in.0.weight"),
        table=_sized(unet_tables.diffusers_i2vgen_table),
    ),
    "svd-vae": Family(
        "Stable Video Diffusion's VAE, diffusers' AutoencoderKLTemporalDecoder",
        ("vae",),
        marks=("decoder.time_conv_out.weight",),
        table=_sized(vae_tables.diffusers_vae_table),
    ),
    "svd": Family(
        "Stable Video Diffusion, original layout: its VAE (first_stage_model)",
        ("vae",),
        marks=("decoder.conv_out.time_mix_conv.weight",),
        table=_sized(vae_tables.original_vae_table),
        prefixes=("first_stage_model.", ""),
    ),
    "taesdv": Family(
        "TAESDV: a small decoder of Stable Video Diffusion's latents, for --decoder tiny",
        ("light_decoder",),
        marks=("decoder.1.weight", "decoder.18.conv.0.weight", "decoder.19.weight"),
        table=_sized(light_decoder_tables.taesdv_table),
        part=light_decoder_tables.with_taesdv,
    ),
    "open-clip": Family(
        "OpenCLIP: the text tower",
        ("text_encoder",),
        marks=("positional_embedding", "transformer.resblocks.0.attn.in_proj_weight"),
        table=text_tables.open_clip_table,
        prefixes=("", "text."),
    ),
    "clip": Family(
        "CLIP, transformers' CLIPTextModel or CLIPModel: the text tower",
        ("text_encoder",),
        marks=("embeddings.token_embedding.weight", "encoder.layers.0.self_attn.q_proj.weight"),
        table=text_tables.clip_table,
        prefixes=("", "text_model."),
    ),
    "star-cogvideox": Family(
        "STAR on CogVideoX: the transformer with LIEM",
        ("transformer",),
        marks=("mixins.patch_embed.proj_sr.weight", "mixins.adaln_layer.adaLN_modulations.0.1.weight"),
        table=_of("transformer", cogvideox_tables.star_cogvideox_table),
        prefixes=(_SAT, "", "module." + _SAT),
        export_prefix=_SAT,
        sizes=cogvideox_sizes.sat_transformer,
    ),
    "cogvideox": Family(
        "CogVideoX, its own layout or diffusers' CogVideoXTransformer3DModel: initialises the transformer",
        ("transformer",),
        marks=("mixins.patch_embed.proj.weight", "mixins.adaln_layer.adaLN_modulations.0.1.weight"),
        other_marks=_DIFFUSERS_COGVIDEOX,
        table=_of("transformer", cogvideox_tables.cogvideox_table),
        prefixes=(_SAT, "", "module." + _SAT),
        export_prefix=_SAT,
        sizes=cogvideox_sizes.transformer,
    ),
    "diffusers-cogvideox": Family(
        "CogVideoX, diffusers' CogVideoXTransformer3DModel; for export",
        ("transformer",),
        marks=_DIFFUSERS_COGVIDEOX,
        table=_of("transformer", cogvideox_tables.diffusers_cogvideox_table),
        sizes=cogvideox_sizes.diffusers_transformer,
    ),
    "cogvideox-vae": Family(
        "CogVideoX's autoencoder, its own layout or diffusers' AutoencoderKLCogVideoX",
        ("vae",),
        marks=("decoder.up.0.block.0.norm1.conv_y.conv.weight",),
        other_marks=_DIFFUSERS_COGVIDEOX_VAE,
        table=_of("vae", cogvideox_vae_tables.cogvideox_vae_table),
        prefixes=("", "first_stage_model.", "module.first_stage_model."),
        sizes=cogvideox_sizes.vae,
    ),
    "diffusers-cogvideox-vae": Family(
        "CogVideoX's autoencoder, diffusers' AutoencoderKLCogVideoX; for export",
        ("vae",),
        marks=_DIFFUSERS_COGVIDEOX_VAE,
        table=_of("vae", cogvideox_vae_tables.diffusers_cogvideox_vae_table),
        sizes=cogvideox_sizes.vae,
    ),
    "t5-encoder": Family(
        "T5 v1.1, transformers' T5EncoderModel: the text encoder",
        ("text_encoder",),
        marks=("shared.weight", "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"),
        table=_of("text_encoder", t5_tables.t5_table),
        prefixes=("", _SAT_TEXT, "module." + _SAT_TEXT),
        sizes=cogvideox_sizes.text_encoder,
    ),
}


def get_family(name: str) -> Family:
    """A family by its name.

    Raises:
      InputError: no family has that name.
    """
    if name not in FAMILIES:
        raise InputError(f"format is {name!r}; choose one of auto, {', '.join(FAMILIES)}")
    return FAMILIES[name]


def embedded(keys: Collection[str], family: str) -> dict[str, str]:
    """Further networks of CogVideoX in the same file as one of `family`: family -> prefix of its keys.

    DeepSpeed saves the whole system in one file: transformer, autoencoder and text encoder.
    """
    seen = set(FAMILIES[family].components)
    found: dict[str, str] = {}
    for name, other in FAMILIES.items():
        is_further = FAMILIES[family].sizes and other.sizes and not seen & set(other.components)
        prefix = other.prefix_in(keys) if is_further else None
        if prefix:
            found[name] = prefix
            seen |= set(other.components)
    return found


def recognise(keys: Collection[str], label: str) -> str:
    """Recognises the family of a source by its keys.

    Raises:
      InputError: no family has these keys.
    """
    for name, family in FAMILIES.items():
        if family.prefix_in(keys) is not None:
            return name
    first = ", ".join(list(keys)[:3])
    raise InputError(
        f"{label} is of no known family (keys: {first}, ...); choose one with --format: {', '.join(FAMILIES)}"
    )
