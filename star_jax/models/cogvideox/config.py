"""Sizes of the networks of STAR on CogVideoX."""

from dataclasses import dataclass, field

from star_jax.config import LiemConfig
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
        spreads the grid's own range over it, `exact` refuses it.
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
