"""An architecture for tests: one convolution, a codec of 4x4x2 that carries a latent to the next chunk, no text."""

from dataclasses import dataclass

import jax.numpy as jnp

from star_jax.config import ArchitectureConfig, SamplingConfig
from star_jax.models.architectures import register
from star_jax.models.chunks import Chunk
from star_jax.models.layers import Conv2d
from star_jax.models.posterior import DiagonalGaussian
from star_jax.models.size_rule import SizeRule
from star_jax.models.video_model import MemoryUse, VideoModel
from star_jax.presets import PRESETS


@dataclass(frozen=True)
class ToyConfig(ArchitectureConfig):
    architecture: str = "toy"


class Toy(VideoModel):
    config_type = ToyConfig
    network_components = ("convolution",)
    autoencoder_components = ("codec",)
    context_shape = (1, 1)
    size_rule = SizeRule(pixels_per_latent=4, step=8, frames_per_latent=2, frame_step=2, least_frames=3)
    latent_channels = 3

    def build(self, component, **kwargs):
        return Conv2d(*{"convolution": (6, 3, 3), "codec": (3, 3, 1)}[component], **kwargs)

    def memory_use(self, platform):
        return MemoryUse(network=24, encoder=8, decoder=8)

    def encode_chunks(self, num_frames):
        return (self.size_rule.padded_frames(num_frames),)

    def decode_chunks(self, num_frames, overlap=0):
        later = [Chunk((2 * i - 1, 2 * i + 1), (i, i + 1), 2, 0, 2) for i in range(2, num_frames // 2 + 1)]
        return Chunk((0, 3), (0, 2), 3, 0, 3), *later

    def encode(self, params, frames, carry=None):
        mean = self.bind(params, "codec")(frames[:, ::2, ::4, ::4]).astype(jnp.float32)
        return DiagonalGaussian(mean, jnp.full_like(mean, -30.0)), None

    def decode(self, params, latents, carry=None):
        frames = latents.repeat(4, 2).repeat(4, 3)
        known = frames if carry is None else jnp.concatenate([carry, frames], 1)
        doubled = known.repeat(2, 1)
        between = (doubled[:, 1:] + doubled[:, :-1]) / 2  # the frames, and the mean of each two neighbours
        return between[:, 0 if carry is None else 1 :], frames[:, -1:]

    def velocity(self, params, x, timesteps, conditioning, hint, *, dropout_key=None):
        return self.bind(params, "convolution")(jnp.concatenate([x, hint], -1).astype(self.dtype))


register("toy", Toy)
PRESETS["toy"] = ToyConfig("toy", sampling=SamplingConfig(2, guidance_scale=1.0, color_fix="none"))
