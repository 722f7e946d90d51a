"""Sizes and constants of STAR on CogVideoX."""

import dataclasses
from dataclasses import dataclass, field
from typing import Self

from star_jax.config import ArchitectureConfig, LiemConfig, SamplingConfig
from star_jax.errors import InputError

POSITIONS = ("rotary", "sincos")
OTHER_GRIDS = ("exact", "interpolated", "extrapolated")


@dataclass(frozen=True)
class TransformerConfig:
    """The diffusion transformer; the defaults are those of the 5B network.

    Attributes:
      in_channels: channels of the noisy and the low-resolution latents together.
      num_layers, num_attention_heads, attention_head_dim: sizes of the blocks; width = heads x head size.
      time_embed_dim: width of the timestep's embedding, from which all modulations are computed.
      text_embed_dim: width of the text encoder's tokens.
      text_length: tokens of every prompt, including padding.
      positions: `rotary` (5B: queries and keys are rotated) or `sincos` (2B: a table is added to the tokens).
      grid: (frames, rows, columns) of tokens that the network was made for; the default is 49 frames of 480x720.
      other_grids: positions on a grid of another height and width. `extrapolated` continues the count,
        `interpolated` spreads the range of `grid` over it, and `exact` allows no other grid (frames are padded or
        cut into tiles).
      spatial_interpolation: divisor of rows and columns in the table of `sincos`.
      lora_rank: rank of low-rank updates that are kept apart from the attention's weights; 0 for none or merged
        ones.
      liem: gates before each attention.
    """

    in_channels: int = 32
    out_channels: int = 16
    patch_size: int = 2
    num_layers: int = 42
    num_attention_heads: int = 48
    attention_head_dim: int = 64
    time_embed_dim: int = 512
    text_embed_dim: int = 4096
    text_length: int = 226
    positions: str = "rotary"
    grid: tuple[int, int, int] = (13, 30, 45)
    other_grids: str = "extrapolated"
    spatial_interpolation: float = 1.875
    lora_rank: int = 0
    liem: LiemConfig = field(default_factory=LiemConfig)

    def __post_init__(self):
        for name, allowed in (("positions", POSITIONS), ("other_grids", OTHER_GRIDS)):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"transformer.{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}"
                )
        if self.liem.position != "before_attention":
            raise InputError(
                f"transformer.liem.position is {self.liem.position!r}; this network has only before_attention"
            )

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_attention_heads * self.attention_head_dim


@dataclass(frozen=True)
class CausalVAEConfig:
    """The causal 3-D autoencoder; 2B and 5B differ only in the scaling factor.

    Attributes:
      layers_per_block: residual blocks per level of the encoder; the decoder has one more.
      temporal_levels: number of finest levels that also halve the number of frames.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 16
    block_out_channels: tuple[int, ...] = (128, 256, 256, 512)
    layers_per_block: int = 3
    norm_num_groups: int = 32
    temporal_levels: int = 2
    scaling_factor: float = 0.7

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent along height and width."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def temporal_factor(self) -> int:
        """Frames per latent, except for the first latent."""
        return 2**self.temporal_levels


@dataclass(frozen=True)
class T5Config:
    """T5 v1.1; the defaults are those of the XXL encoder, whose vocabulary is padded to 32128.

    Attributes:
      num_buckets, max_distance: buckets of relative positions; distances above `max_distance` share the last one.
    """

    vocab_size: int = 32128
    hidden_size: int = 4096
    head_dim: int = 64
    intermediate_size: int = 10240
    num_hidden_layers: int = 24
    num_attention_heads: int = 64
    num_buckets: int = 32
    max_distance: int = 128


@dataclass(frozen=True)
class ZeroSNRConfig:
    """Noise schedule of CogVideoX.

    Attributes:
      beta_start, beta_end: first and last variance; their square roots are spaced linearly.
      snr_shift: divisor of the signal-to-noise ratio; 1 for 5B, 3 for 2B.
      guidance_rescale: see `star_jax.diffusion.guidance`.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    snr_shift: float = 1.0
    guidance_rescale: float = 0.0


@dataclass(frozen=True)
class CogVideoXSampling(SamplingConfig):
    """How CogVideoX is meant to be sampled; the defaults are those of the released system.

    Attributes:
      window: frames denoised together; the default is the 13 latents that the network was made for.
      positive_prompt, negative_prompt: empty, as nothing is appended and the unconditional branch gets zeros.
    """

    num_inference_steps: int = 50
    guidance_scale: float = 6.0
    window: int = 49
    positive_prompt: str = ""
    negative_prompt: str = ""


@dataclass(frozen=True)
class CogVideoXConfig(ArchitectureConfig):
    """STAR on CogVideoX; the defaults are those of the 5B network.

    Attributes:
      dynamic_guidance: whether the guidance scale changes from step to step, as in the released system.
      encode_groups: whether clips are encoded eight frames at a time, as in diffusers; the released system encodes
        them whole.
    """

    architecture: str = "cogvideox"
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    vae: CausalVAEConfig = field(default_factory=CausalVAEConfig)
    text_encoder: T5Config = field(default_factory=T5Config)
    diffusion: ZeroSNRConfig = field(default_factory=ZeroSNRConfig)  # type: ignore[assignment]  # its own schedule
    sampling: CogVideoXSampling = field(default_factory=CogVideoXSampling)
    dynamic_guidance: bool = True
    encode_groups: bool = False

    def with_liem(self, liem: LiemConfig) -> Self:
        return dataclasses.replace(self, transformer=dataclasses.replace(self.transformer, liem=liem))

    def in_one_step(self, timestep: int | None, start: str) -> Self:
        raise InputError(
            f"preset {self.preset!r} ({self.architecture}) needs at least 2 steps of sampling; choose "
            "another preset"
        )

    def with_autoencoder(self, other: Self) -> Self:
        return dataclasses.replace(self, vae=other.vae)

    def with_scaling_factor(self, factor: float) -> Self:
        return dataclasses.replace(self, vae=dataclasses.replace(self.vae, scaling_factor=factor))
