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
    """The diffusion transformer; the defaults are the 5B network's.

    Attributes:
      in_channels: of the noisy and the low-resolution latents together.
      num_layers, num_attention_heads, attention_head_dim: width = heads x head size.
      time_embed_dim: width of the timestep's embedding, which all modulations are made of.
      text_embed_dim: width of the text encoder's tokens.
      text_length: tokens of every prompt, padding included.
      positions: `rotary` (5B: queries and keys are turned) or `sincos` (2B: a table is added to the tokens).
      grid: (frames, rows, columns) of tokens that the network was made for: 49 frames of 480x720.
      other_grids: positions on a grid of other height and width. `extrapolated` goes on counting, `interpolated`
        spreads the grid's own range over it, `exact` takes no other (frames are padded, or cut into tiles).
      spatial_interpolation: what rows and columns are divided by in the table of `sincos`.
      lora_rank: of the low-rank updates kept apart from the attention's weights; 0: none, or merged into them.
      liem: which gates stand before each attention.
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
                f"transformer.liem.position is {self.liem.position!r}; this network has before_attention only"
            )

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_attention_heads * self.attention_head_dim


@dataclass(frozen=True)
class CausalVAEConfig:
    """The causal 3-D autoencoder; 2B and 5B differ in the scaling factor alone.

    Attributes:
      layers_per_block: residual blocks of a level of the encoder; the decoder has one more.
      temporal_levels: how many of the finest levels halve the number of frames, too.
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
        """Frames per latent, but for the first."""
        return 2**self.temporal_levels


@dataclass(frozen=True)
class T5Config:
    """T5 v1.1; the defaults are the XXL encoder's, whose vocabulary is padded to 32128.

    Attributes:
      num_buckets, max_distance: of the relative positions; larger distances share the last bucket.
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
      beta_start, beta_end: ends of the variances, which are linear in their roots.
      snr_shift: what the signal-to-noise ratio is divided by; 1 for 5B, 3 for 2B.
      guidance_rescale: see `star_jax.diffusion.guidance`.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    snr_shift: float = 1.0
    guidance_rescale: float = 0.0


@dataclass(frozen=True)
class CogVideoXSampling(SamplingConfig):
    """How CogVideoX is meant to be sampled; the released system's defaults.

    Attributes:
      window: frames denoised together: the 13 latents that the network was made for.
      positive_prompt, negative_prompt: nothing is appended, and the unconditional branch is told zeros.
    """

    num_inference_steps: int = 50
    guidance_scale: float = 6.0
    window: int = 49
    positive_prompt: str = ""
    negative_prompt: str = ""


@dataclass(frozen=True)
class CogVideoXConfig(ArchitectureConfig):
    """STAR on CogVideoX; the defaults are the 5B network's.

    Attributes:
      dynamic_guidance: whether the weight of the prompt changes from step to step, as in the released system.
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
        raise InputError(f"preset {self.preset!r} ({self.architecture}) takes at least 2 steps of sampling")

    def with_autoencoder(self, other: Self) -> Self:
        return dataclasses.replace(self, vae=other.vae)

    def with_scaling_factor(self, factor: float) -> Self:
        return dataclasses.replace(self, vae=dataclasses.replace(self.vae, scaling_factor=factor))
