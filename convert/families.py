"""The families of checkpoints that convert: how each is recognised, and its table."""

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass

from star_jax.config import StarConfig
from star_jax.convert import text_tables, unet_tables, vae_tables
from star_jax.convert.rules import Rule, Table, Update
from star_jax.errors import InputError
from star_jax.models.architectures import build_model


@dataclass(frozen=True)
class Family:
    """One kind of checkpoint.

    Attributes:
      description: what it is, for people.
      components: what it fills.
      marks: keys that it has.
      absent: keys that it has not, to tell it from its relatives.
      table: sizes and the source's keys (prefix removed) -> table.
      prefixes: what may stand before every key of the part that is converted.
    """

    description: str
    components: tuple[str, ...]
    marks: tuple[str, ...]
    table: Callable[[StarConfig, Collection[str]], Table]
    absent: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ("",)

    def prefix_in(self, keys: Collection[str]) -> str | None:
        """The prefix under which `keys` have this family's marks, or None."""
        for prefix in self.prefixes:
            if all(prefix + mark in keys for mark in self.marks):
                return None if any(prefix + key in keys for key in self.absent) else prefix
        return None

    def in_preset(self, config: StarConfig) -> bool:
        """Whether a model of these sizes has the components that this family fills."""
        return set(self.components) <= set(build_model(config).components)

    def table_for(self, config: StarConfig, keys: Collection[str]) -> Table:
        """The table of this family for a source's keys, with their prefix.

        Raises:
          InputError: a model of these sizes has no such component.
        """
        if not self.in_preset(config):
            raise InputError(f"preset {config.preset!r} has no {' and '.join(self.components)}; name another")
        prefix = self.prefix_in(keys) or ""
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


_LIEM_KEY = "input_blocks.0.1.transformer_blocks.0.local1.conv1.weight"
_CONTROL_KEY = "VideoControlNet.input_hint_block.weight"
_NETWORKS = ("unet", "controlnet")

# In the order in which they are tried.
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
}


def get_family(name: str) -> Family:
    """A family by its name.

    Raises:
      InputError: there is none of that name.
    """
    if name not in FAMILIES:
        raise InputError(f"no format {name!r}; choose one of auto, {', '.join(FAMILIES)}")
    return FAMILIES[name]


def recognise(keys: Collection[str], label: str) -> str:
    """Which family a source's keys are of.

    Raises:
      InputError: none that is known.
    """
    for name, family in FAMILIES.items():
        if family.prefix_in(keys) is not None:
            return name
    first = ", ".join(list(keys)[:3])
    raise InputError(
        f"{label} is of no known family (keys: {first}, ...); known are {', '.join(FAMILIES)}; name one by --format"
    )
