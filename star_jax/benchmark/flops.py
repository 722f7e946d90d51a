"""How many floating-point operations the networks need: counted from their sizes, and asked of a compiled program.

A multiply-add is two operations. Convolutions, linear maps and the two products of attention are counted, as is
usual; normalisations, activations and softmax are not (about 1 %).
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import jax

from star_jax.config import StarConfig, TextEncoderConfig, UNetConfig, VAEConfig
from star_jax.diffusion.schedule import NoiseSchedule
from star_jax.diffusion.solvers import solver_table
from star_jax.diffusion.windows import make_windows
from star_jax.inference.settings import UpscaleSettings

TEXT_LENGTH = 77


@dataclass(frozen=True)
class FlopCount:
    """Operations by kind. Convolutions of one pixel and one frame count as convolutions, too."""

    convolution: float = 0
    linear: float = 0
    attention: float = 0

    @property
    def total(self) -> float:
        return self.convolution + self.linear + self.attention

    def __add__(self, other: "FlopCount") -> "FlopCount":
        return FlopCount(
            self.convolution + other.convolution,
            self.linear + other.linear,
            self.attention + other.attention,
        )

    def __mul__(self, times: float) -> "FlopCount":
        return FlopCount(self.convolution * times, self.linear * times, self.attention * times)

    def backward(self, *, weights: bool) -> "FlopCount":
        """Operations of the backward pass.

        The gradient of the input costs as much as the forward pass, that of the weights as much again; in
        attention both factors are activations.
        """
        gradients = 2 if weights else 1
        return FlopCount(gradients * self.convolution, gradients * self.linear, 2 * self.attention)


def compiled_flops(compiled: jax.stages.Compiled) -> float | None:
    """The compiler's own count for one device, None where it keeps none.

    It counts a loop's body once, whatever the number of turns (the solver's scan, windows, `chunked` attention),
    and nothing inside hand-written kernels (`cudnn`, `splash`).
    """
    analysis: Any = compiled.cost_analysis()
    flops = (analysis or {}).get("flops", 0)
    return float(flops) if flops > 0 else None


def star_flops(config: UNetConfig, num_frames: int, height: int, width: int, *, batch: int = 1) -> FlopCount:
    """One evaluation of UNet and ControlNet on latents [batch, num_frames, height, width, 4].

    Guidance runs two branches: batch 2.
    """
    size = (num_frames, height, width)
    return unet_flops(config, *size, batch=batch) + controlnet_flops(config, *size, batch=batch)


def unet_flops(config: UNetConfig, num_frames: int, height: int, width: int, *, batch: int = 1) -> FlopCount:
    """The base UNet's part of `star_flops`."""
    widths, layers = config.block_out_channels, config.layers_per_block
    sizes, skips = _encoder_sizes(config, height, width)
    remaining = [channels for _, channels in skips]
    count, x_width = _encoder(config, num_frames, height, width), widths[-1]
    for level in reversed(range(len(widths))):
        shape = (num_frames, *sizes[level])
        for _ in range(layers + 1):
            count += _layer(config, level, x_width + remaining.pop(), shape)
            x_width = widths[level]
        if level > 0:
            count += _conv(x_width, x_width, 9, (num_frames, *sizes[level - 1]))
    count += _conv(widths[0], config.out_channels, 9, (num_frames, height, width))
    return count * batch


def controlnet_flops(
    config: UNetConfig, num_frames: int, height: int, width: int, *, batch: int = 1
) -> FlopCount:
    """The ControlNet's part of `star_flops`: an encoder, the hint's convolution and the 1x1 outputs."""
    widths = config.block_out_channels
    count = _encoder(config, num_frames, height, width)
    count += _conv(config.in_channels, widths[0], 9, (num_frames, height, width))
    sizes, skips = _encoder_sizes(config, height, width)
    for size, channels in [*skips, (sizes[-1], widths[-1])]:
        count += _conv(channels, channels, 1, (num_frames, *size))
    return count * batch


def text_projection_flops(config: UNetConfig) -> float:
    """The part of `star_flops` that depends on the text alone: its keys and values at every site, per branch.

    A pipeline projects them once per clip, the original anew for every step and frame.
    """
    widths, layers = config.block_out_channels, config.layers_per_block
    sites = [
        width * (2 * layers + layers + 1)  # both encoders, the decoder
        for width, has_attention in zip(widths, config.attention_levels, strict=True)
        if has_attention
    ]
    return _text_projection(config, sum(sites) + 2 * widths[-1])  # and both middles


def vae_encode_flops(config: VAEConfig, num_frames: int, height: int, width: int) -> FlopCount:
    """The VAE's encoder on frames [num_frames, height, width, 3]."""
    widths, latents = config.block_out_channels, 2 * config.latent_channels
    shape = (num_frames, height, width)
    count, before = _conv(config.in_channels, widths[0], 9, shape), widths[0]
    for level, channels in enumerate(widths):
        for _ in range(config.layers_per_block):
            count += _image_resnet(before, channels, shape)
            before = channels
        if level + 1 < len(widths):
            shape = (num_frames, shape[1] // 2, shape[2] // 2)
            count += _conv(channels, channels, 9, shape)
    count += _image_resnet(before, before, shape) * 2 + _image_attention(before, shape)
    return count + _conv(before, latents, 9, shape) + _conv(latents, latents, 1, shape)


def vae_decode_flops(config: VAEConfig, num_frames: int, height: int, width: int) -> FlopCount:
    """The VAE's temporal decoder to frames [num_frames, height, width, 3]; overlaps are the caller's."""
    widths = config.block_out_channels[::-1]
    factor = config.spatial_factor
    shape, before = (num_frames, height // factor, width // factor), widths[0]
    count = _conv(config.latent_channels, before, 9, shape)
    count += _video_resnet(before, before, shape) * 2 + _image_attention(before, shape)
    for level, channels in enumerate(widths):
        for _ in range(config.layers_per_block + 1):
            count += _video_resnet(before, channels, shape)
            before = channels
        if level + 1 < len(widths):
            shape = (num_frames, 2 * shape[1], 2 * shape[2])
            count += _conv(channels, channels, 9, shape)
    out = config.out_channels
    return count + _conv(before, out, 9, shape) + _conv(out, out, 3, shape)


def text_encoder_flops(config: TextEncoderConfig, *, batch: int = 1, length: int | None = None) -> FlopCount:
    """The text tower on [batch, length] tokens; its last layer does not run."""
    length, width = length or config.max_position_embeddings, config.hidden_size
    weights = 4 * width * width + 2 * width * config.intermediate_size
    layer = FlopCount(linear=2 * length * weights, attention=4 * length * length * width)
    return layer * (batch * (config.num_hidden_layers - 1))


def pipeline_flops(
    config: StarConfig, num_frames: int, height: int, width: int, settings: UpscaleSettings
) -> FlopCount:
    """A whole upscale of one clip to (padded) frames [num_frames, height, width, 3]; overlapping windows count."""
    factor = config.vae.spatial_factor
    table = solver_table(
        NoiseSchedule.from_config(config.diffusion),
        solver=settings.solver,
        spacing=settings.resolved_spacing,
        num_inference_steps=settings.num_inference_steps,
        start_timestep=config.diffusion.start_timestep,
    )
    guided = config.text_encoder is not None and settings.guidance_scale != 1.0
    count = vae_encode_flops(config.vae, num_frames, height, width)
    count += vae_decode_flops(config.vae, num_frames, height, width)
    if config.text_encoder is not None:
        count += text_encoder_flops(config.text_encoder, batch=2)
    text = FlopCount(linear=text_projection_flops(config.unet) * (1 + guided))
    for start, stop in make_windows(num_frames, settings.window):
        window = star_flops(config.unet, stop - start, height // factor, width // factor, batch=1 + guided)
        count += (window + text * -1) * len(table)
    return count + text


def train_step_flops(
    config: StarConfig, num_frames: int, height: int, width: int, *, batch: int = 1, decoded_frames: int = 0
) -> FlopCount:
    """One training step on frames [batch, num_frames, height, width, 3], without what remat computes twice.

    The ControlNet's weights are trained; through the frozen UNet and the frozen decoder only activations have
    gradients (LIEM's own are a few thousand weights).

    Args:
      config: sizes.
      num_frames, height, width: of a ground-truth clip, in pixels.
      batch: clips per step.
      decoded_frames: frames that the frequency loss decodes, per clip.
    """
    encoded = vae_encode_flops(config.vae, num_frames, height, width) * 2  # ground truth and low resolution
    size = (num_frames, height // config.vae.spatial_factor, width // config.vae.spatial_factor)
    unet, controlnet = unet_flops(config.unet, *size), controlnet_flops(config.unet, *size)
    decoded = vae_decode_flops(config.vae, decoded_frames, height, width)
    forward = encoded + unet + controlnet + decoded
    backward = unet.backward(weights=False) + controlnet.backward(weights=True)
    return (forward + backward + decoded.backward(weights=False)) * batch


def _conv(in_channels: int, out_channels: int, taps: int, shape: tuple[int, ...]) -> FlopCount:
    """A convolution with an output of `shape` = (frames, height, width); zero padding counts like pixels."""
    return FlopCount(convolution=2 * taps * in_channels * out_channels * prod(shape))


def _encoder_sizes(
    config: UNetConfig, height: int, width: int
) -> tuple[list[tuple[int, int]], list[tuple[tuple[int, int], int]]]:
    """(height, width) of each level, and ((height, width), channels) of each skip connection, finest first."""
    widths = config.block_out_channels
    sizes = [(height, width)]
    skips = [((height, width), widths[0])]
    for level, channels in enumerate(widths):
        skips += [(sizes[-1], channels)] * config.layers_per_block
        if level + 1 < len(widths):
            pad_height, pad_width = config.downsample_padding
            above = sizes[-1]
            sizes.append(((above[0] + 2 * pad_height - 3) // 2 + 1, (above[1] + 2 * pad_width - 3) // 2 + 1))
            skips.append((sizes[-1], channels))
    return sizes, skips


def _encoder(config: UNetConfig, num_frames: int, height: int, width: int) -> FlopCount:
    """First convolution, temporal transformer, down levels and middle."""
    widths = config.block_out_channels
    embed_dim = 4 * widths[0]
    sizes, _ = _encoder_sizes(config, height, width)
    shape = (num_frames, height, width)
    count = FlopCount(linear=2 * (widths[0] * embed_dim + embed_dim * embed_dim))
    count += _conv(config.in_channels, widths[0], 9, shape)
    inner = config.transformer_in_heads * config.attention_head_dim
    count += _temporal_transformer(config, widths[0], inner, shape)
    before = widths[0]
    for level, channels in enumerate(widths):
        for _ in range(config.layers_per_block):
            count += _layer(config, level, before, (num_frames, *sizes[level]))
            before = channels
        if level + 1 < len(widths):
            count += _conv(channels, channels, 9, (num_frames, *sizes[level + 1]))
    shape = (num_frames, *sizes[-1])
    count += _resnet(config, before, before, shape) * 2
    return (
        count
        + _spatial_transformer(config, before, shape)
        + _temporal_transformer(config, before, before, shape)
    )


def _layer(config: UNetConfig, level: int, in_channels: int, shape: tuple[int, int, int]) -> FlopCount:
    """A residual block and, where the level has attention, its two transformers."""
    channels = config.block_out_channels[level]
    count = _resnet(config, in_channels, channels, shape)
    if config.attention_levels[level]:
        count += _spatial_transformer(config, channels, shape)
        count += _temporal_transformer(config, channels, channels, shape)
    return count


def _resnet(
    config: UNetConfig, in_channels: int, out_channels: int, shape: tuple[int, int, int]
) -> FlopCount:
    count = _conv(in_channels, out_channels, 9, shape) + _conv(out_channels, out_channels, 9, shape)
    if in_channels != out_channels:
        count += _conv(in_channels, out_channels, 1, shape)
    count += _conv(out_channels, out_channels, 3, shape) * 4  # the temporal convolutions
    return count + FlopCount(linear=2 * 4 * config.block_out_channels[0] * out_channels)


def _spatial_transformer(config: UNetConfig, channels: int, shape: tuple[int, int, int]) -> FlopCount:
    tokens, pixels = prod(shape), shape[1] * shape[2]
    # in, out; query, key, value, out of self-attention; query, out of attention to the text; GEGLU (8 + 4)
    linear = 2 * tokens * (2 + 4 + 2 + 12) * channels**2
    attention = 4 * tokens * (pixels + TEXT_LENGTH) * channels
    gate = _conv(2, 1, 49, shape) if config.liem.spatial else FlopCount()
    text = FlopCount(linear=_text_projection(config, channels))
    return gate + text + FlopCount(linear=linear, attention=attention)


def _text_projection(config: UNetConfig, channels: int) -> float:
    """Keys and values of one clip's text at one site."""
    return 2 * TEXT_LENGTH * 2 * config.cross_attention_dim * channels


def _temporal_transformer(
    config: UNetConfig, channels: int, inner: int, shape: tuple[int, int, int]
) -> FlopCount:
    tokens = prod(shape)
    linear = 2 * tokens * (4 + 4 + 12) * inner**2
    gates = 2 * tokens * 2 * 2 if config.liem.temporal else 0
    in_and_out = 2 * tokens * 2 * channels * inner  # one-frame convolutions in the original
    return FlopCount(in_and_out, linear + gates, 2 * 4 * tokens * shape[0] * inner)


def _image_resnet(in_channels: int, out_channels: int, shape: tuple[int, int, int]) -> FlopCount:
    count = _conv(in_channels, out_channels, 9, shape) + _conv(out_channels, out_channels, 9, shape)
    return count if in_channels == out_channels else count + _conv(in_channels, out_channels, 1, shape)


def _video_resnet(in_channels: int, out_channels: int, shape: tuple[int, int, int]) -> FlopCount:
    return _image_resnet(in_channels, out_channels, shape) + _conv(out_channels, out_channels, 3, shape) * 2


def _image_attention(channels: int, shape: tuple[int, int, int]) -> FlopCount:
    tokens, pixels = prod(shape), shape[1] * shape[2]
    return FlopCount(linear=2 * tokens * 4 * channels**2, attention=4 * tokens * pixels * channels)
