"""Sizes and constants of every part of STAR, as frozen dataclasses."""

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from typing import Any, Self

from star_jax.errors import InputError

LIEM_POSITIONS = ("before_attention", "after_attention", "block_output")
STARTS = ("noise", "hint")


@dataclass(frozen=True)
class LiemConfig:
    """Local Information Enhancement Module (paper section 3.2 and its ablations).

    Attributes:
      spatial: gate the input of the spatial self-attention.
      temporal: gate the inputs of both temporal attentions.
      position: `before_attention` (the paper's (i), and the released checkpoints), `after_attention` ((ii):
        on the attention's output, before the residual) or `block_output` ((iii)).
    """

    spatial: bool = True
    temporal: bool = True
    position: str = "before_attention"

    def __post_init__(self):
        if self.position not in LIEM_POSITIONS:
            raise InputError(f"liem.position is {self.position!r}; choose one of {', '.join(LIEM_POSITIONS)}")


@dataclass(frozen=True)
class UNetConfig:
    """Base UNet and, with the same sizes, the ControlNet's encoder.

    Attributes:
      block_out_channels: channels of each level, finest first.
      attention_levels: which levels have spatial and temporal transformers.
      attention_head_dim: head size of every attention; heads = channels / head size.
      transformer_in_heads: heads of the temporal transformer after the first convolution (its inner width is
        heads x attention_head_dim, 512 in the original, independent of the channels).
      cross_attention_dim: width of the text embeddings.
      downsample_padding: (height, width) padding of the strided convolutions; the original pads (2, 1).
    """

    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    attention_levels: tuple[bool, ...] = (True, True, True, False)
    layers_per_block: int = 2
    attention_head_dim: int = 64
    transformer_in_heads: int = 8
    cross_attention_dim: int = 1024
    norm_num_groups: int = 32
    downsample_padding: tuple[int, int] = (2, 1)
    dropout: float = 0.1
    liem: LiemConfig = field(default_factory=LiemConfig)


@dataclass(frozen=True)
class LightDecoderConfig:
    """A light decoder besides the autoencoder's decoder (`star_jax.models.light_decoder`).

    Attributes:
      channels: widths at 1, 2 and 4 times the latents' grid.
      blocks: numbers of blocks at these three grids.
      fidelity: default fidelity of `upscale`, from 0 (plausible detail) to 1 (closeness to the ground truth).
    """

    channels: tuple[int, int, int] = (128, 64, 24)
    blocks: tuple[int, int, int] = (5, 10, 1)
    fidelity: float = 0.0


@dataclass(frozen=True)
class TaesdvConfig:
    """TAESDV (`star_jax.models.light_decoder.taesdv`), as the light decoder.

    Attributes:
      width: channels at every grid.
      layers: numbers of blocks at 1, 2, 4 and 8 times the latents' grid.
    """

    width: int = 64
    layers: tuple[int, int, int, int] = (3, 3, 3, 1)


@dataclass(frozen=True)
class VAEConfig:
    """Stable Video Diffusion's AutoencoderKLTemporalDecoder."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent along height and width."""
        return 2 ** (len(self.block_out_channels) - 1)


@dataclass(frozen=True)
class TextEncoderConfig:
    """CLIP's text tower; its output is the final norm of the hidden state before the last layer."""

    vocab_size: int = 49408
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    max_position_embeddings: int = 77


@dataclass(frozen=True)
class DiffusionConfig:
    """Noise schedule and sampling constants of the released system.

    Attributes:
      start: start of sampling at `start_timestep`: `noise` (low-resolution latents with added noise) or `hint`
        (these latents without noise, for one-step models that were trained with it).
    """

    num_train_timesteps: int = 1000
    logsnr_min: float = -15.0
    logsnr_max: float = 15.0
    scale_min: float = 2.0
    scale_max: float = 4.0
    start_timestep: int = 899
    guidance_rescale: float = 0.2
    start: str = "noise"

    def __post_init__(self):
        if self.start not in STARTS:
            raise InputError(f"diffusion.start is {self.start!r}; choose one of {', '.join(STARTS)}")


@dataclass(frozen=True)
class SamplingConfig:
    """How a model is meant to be sampled: its defaults for `star_jax.inference.settings.UpscaleSettings`.

    The defaults here are those of the released system.
    """

    num_inference_steps: int = 15
    guidance_scale: float = 7.5
    color_fix: str = "adain"
    decode_overlap: int = 0


@dataclass(frozen=True)
class ArchitectureConfig:
    """Base of every architecture's configuration; each adds the sizes of its networks.

    Attributes:
      preset: name of the sizes.
      architecture: name of the `star_jax.models.video_model.VideoModel` with these sizes; see
        `star_jax.models.architectures`.
      diffusion: noise schedule, and where sampling starts.
      sampling: how the model is meant to be sampled.
    """

    preset: str
    architecture: str = ""
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def with_liem(self, liem: LiemConfig) -> Self:
        """These sizes with another LIEM (the paper's ablations).

        Raises:
          InputError: the architecture has no LIEM to change.
        """
        if liem != LiemConfig():
            raise InputError(
                f"preset {self.preset!r} ({self.architecture}) has no LIEM to change; keep the defaults of "
                "model.liem_spatial, model.liem_temporal and model.liem_position"
            )
        return self

    def with_autoencoder(self, other: Self) -> Self:
        """These sizes with the autoencoder of another configuration of the same architecture.

        Raises:
          InputError: the architecture has only one autoencoder.
        """
        raise InputError(
            f"preset {self.preset!r} ({self.architecture}) takes no other autoencoder; leave it out"
        )

    def with_scaling_factor(self, factor: float) -> Self:
        """These sizes with another scale of the latents.

        Raises:
          InputError: the architecture has a fixed scale.
        """
        raise InputError(
            f"preset {self.preset!r} ({self.architecture}) has a fixed latent scale; choose another preset"
        )

    def in_one_step(self, timestep: int | None, start: str) -> Self:
        """These sizes for a model that is sampled in one unguided step.

        Args:
          timestep: timestep of the step; None keeps the current start timestep.
          start: see `DiffusionConfig`.

        Raises:
          InputError: the architecture cannot be sampled in one step.
        """
        timestep = self.diffusion.start_timestep if timestep is None else timestep
        return dataclasses.replace(
            self,
            diffusion=dataclasses.replace(self.diffusion, start_timestep=timestep, start=start),
            sampling=dataclasses.replace(self.sampling, num_inference_steps=1, guidance_scale=1.0),
        )

    def unguided(self) -> Self:
        """These sizes for a model that is sampled without guidance."""
        return dataclasses.replace(self, sampling=dataclasses.replace(self.sampling, guidance_scale=1.0))

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads the output of `to_json`.

        Raises:
          InputError: not JSON, or a key is unknown or missing.
        """
        try:
            return _build(cls, json.loads(text))
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(
                f"config.json is not a star_jax model configuration: {error}; convert the checkpoint again"
            ) from error


@dataclass(frozen=True)
class StarConfig(ArchitectureConfig):
    """STAR on I2VGen-XL.

    `text_encoder` is None if the network gets a null (all-zero) context; `light_decoder` is None if the
    autoencoder's decoder is the only one.
    """

    architecture: str = "i2vgen-xl"
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    text_encoder: TextEncoderConfig | None = field(default_factory=TextEncoderConfig)
    light_decoder: LightDecoderConfig | TaesdvConfig | None = None

    def with_liem(self, liem: LiemConfig) -> Self:
        return dataclasses.replace(self, unet=dataclasses.replace(self.unet, liem=liem))

    def with_autoencoder(self, other: Self) -> Self:
        return dataclasses.replace(self, vae=other.vae)

    def with_scaling_factor(self, factor: float) -> Self:
        return dataclasses.replace(self, vae=dataclasses.replace(self.vae, scaling_factor=factor))


def _build(cls: type, values: dict[str, Any]) -> Any:
    """Rebuilds a dataclass from nested dicts; lists become tuples, and unknown keys raise TypeError.

    If a field may hold one of several dataclasses, the first one that has all keys is used.
    """
    hints = typing.get_type_hints(cls)
    kwargs = {}
    for key, value in values.items():
        kinds = [hints.get(key), *typing.get_args(hints.get(key))]
        parts = [kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
        if parts and value is not None:
            known = (part for part in parts if value.keys() <= {f.name for f in dataclasses.fields(part)})
            value = _build(next(known, parts[0]), value)
        kwargs[key] = tuple(value) if isinstance(value, list) else value
    return cls(**kwargs)
