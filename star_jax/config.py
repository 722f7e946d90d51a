"""Sizes and constants of every part of STAR, as frozen dataclasses, and the named presets."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from star_jax.errors import InputError

BUNDLED = "tiny-star"  # the checkpoint in the package, and the preset of its sizes
LIEM_POSITIONS = ("before_attention", "after_attention", "block_output")


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
        heads x attention_head_dim, 512 in the original whatever the channels).
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
    """CLIP text tower; the output is taken after all but the last layer, then final-normed."""

    vocab_size: int = 49408
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    max_position_embeddings: int = 77


@dataclass(frozen=True)
class DiffusionConfig:
    """Noise schedule and sampling constants of the released system."""

    num_train_timesteps: int = 1000
    logsnr_min: float = -15.0
    logsnr_max: float = 15.0
    scale_min: float = 2.0
    scale_max: float = 4.0
    start_timestep: int = 899
    guidance_rescale: float = 0.2


@dataclass(frozen=True)
class SamplingConfig:
    """How a model is meant to be sampled; defaults of `star_jax.settings.UpscaleSettings`, whose names these are.

    The defaults here are the released system's.
    """

    num_inference_steps: int = 15
    guidance_scale: float = 7.5
    color_fix: str = "adain"
    decode_overlap: int = 0


@dataclass(frozen=True)
class StarConfig:
    """A whole model. `text_encoder` is None where the network is fed a null (all-zero) context."""

    preset: str
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    text_encoder: TextEncoderConfig | None = field(default_factory=TextEncoderConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "StarConfig":
        """Reads what `to_json` wrote.

        Raises:
          InputError: not JSON, or a key is unknown or missing.
        """
        try:
            return _build(cls, json.loads(text))
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(f"config.json is not a star_jax model configuration: {error}") from error


def _build(cls: type, values: dict[str, Any]) -> Any:
    """Rebuilds a dataclass from nested dicts; lists become tuples, unknown keys raise TypeError."""
    parts = {"unet": UNetConfig, "vae": VAEConfig, "text_encoder": TextEncoderConfig}
    parts |= {"diffusion": DiffusionConfig, "liem": LiemConfig, "sampling": SamplingConfig}
    kwargs = {}
    for key, value in values.items():
        if key in parts and value is not None:
            value = _build(parts[key], value)
        kwargs[key] = tuple(value) if isinstance(value, list) else value
    return cls(**kwargs)


_GOLDEN_UNET = UNetConfig(
    block_out_channels=(32, 64, 128, 128), attention_head_dim=16, transformer_in_heads=2
)
_TINY_UNET = UNetConfig(
    block_out_channels=(16, 32, 32, 32),
    attention_levels=(False, True, True, False),
    layers_per_block=1,
    attention_head_dim=32,  # one head: on a CPU, attention costs by its exponentials, and they by the heads
    transformer_in_heads=1,
    cross_attention_dim=64,
    norm_num_groups=8,
)
_TINY_VAE = VAEConfig(block_out_channels=(16, 32, 32, 32), layers_per_block=1, norm_num_groups=8)
_TINY_TEXT = TextEncoderConfig(
    vocab_size=514, hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4
)
_TINY_STAR_UNET = UNetConfig(
    in_channels=16,
    out_channels=16,
    block_out_channels=(48, 48, 64, 64),
    attention_levels=(False, True, False, False),
    layers_per_block=1,
    attention_head_dim=16,
    transformer_in_heads=2,
    cross_attention_dim=16,
    norm_num_groups=1,
    dropout=0.0,
)
_TINY_STAR_VAE = VAEConfig(
    latent_channels=16, block_out_channels=(16, 16, 32, 64), layers_per_block=1, norm_num_groups=2
)

PRESETS: dict[str, StarConfig] = {
    # The released networks: 2.04 B parameters, SVD's VAE, OpenCLIP ViT-H/14.
    "i2vgen-xl": StarConfig("i2vgen-xl"),
    # The same architecture, small in every part and without attention on the finest level, so that it runs on a
    # laptop's CPU; byte-level tokens instead of CLIP's vocabulary.
    "tiny": StarConfig("tiny", unet=_TINY_UNET, vae=_TINY_VAE, text_encoder=_TINY_TEXT),
    # Small enough to train on a CPU (configs/tiny_star.py): its latents carry more, it reads no text, and its
    # norms have one or two groups, which leave more of a picture's contrast in.
    "tiny-star": StarConfig(
        "tiny-star",
        unet=_TINY_STAR_UNET,
        vae=_TINY_STAR_VAE,
        text_encoder=None,
        sampling=SamplingConfig(1, guidance_scale=1.0, color_fix="wavelet", decode_overlap=1),
    ),
    # The network that the parity numbers in tests/golden were made with, with the original's text width.
    "tiny-golden": StarConfig(
        "tiny-golden",
        unet=_GOLDEN_UNET,
        vae=_TINY_VAE,
        text_encoder=dataclasses.replace(_TINY_TEXT, hidden_size=1024, num_attention_heads=16),
    ),
}


def get_preset(name: str) -> StarConfig:
    """Returns a named preset.

    Raises:
      InputError: no preset of that name.
    """
    if name not in PRESETS:
        raise InputError(f"no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
