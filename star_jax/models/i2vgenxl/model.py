"""STAR on I2VGen-XL: UNet, ControlNet, Stable Video Diffusion's autoencoder and, optionally, CLIP's text tower."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int, Key

from star_jax.config import LightDecoderConfig, StarConfig, TaesdvConfig
from star_jax.models.chunks import Chunk, independent_chunks
from star_jax.models.clip.text_encoder import CLIPTextEncoder
from star_jax.models.clip.tokenizer import (
    BYTE_LEVEL_VOCABULARY,
    load_tokenizer,
    tokenize,
    write_byte_level_tokenizer,
)
from star_jax.models.dropout import fold_keys, key_at
from star_jax.models.i2vgenxl.controlnet import ControlNet
from star_jax.models.i2vgenxl.layers_to_measure import layer_parts, operation_parts, vae_parts
from star_jax.models.i2vgenxl.start import guess_leaf
from star_jax.models.i2vgenxl.unet import TextProjections, UNet
from star_jax.models.light_decoder import decoder as light_decoder
from star_jax.models.light_decoder import taesdv
from star_jax.models.part import LayersToMeasure
from star_jax.models.posterior import DiagonalGaussian
from star_jax.models.size_rule import SizeRule
from star_jax.models.svd_vae.start import pyramid_leaf
from star_jax.models.svd_vae.vae import AutoencoderKLTemporalDecoder
from star_jax.models.video_model import TOKENIZER_DIR, Carry, MemoryUse, Params, VideoModel

CHUNK = 3  # frames decoded together, as in the released system; also read and encoded together

# Values held at once per channel of the finest level. UNet and ControlNet: per latent, frame and branch (an H200
# held 20.5 and, with other forms of operations, 27.5). VAE: per pixel and frame, in float32 (on a GPU the compiler
# needs less: for an H100 it reports 3.3 GiB for the float16 decoder, estimated at 4.9, and 4.0 for the float32
# encoder, estimated at 4.1; neither includes cuDNN's workspaces).
_NETWORK_VALUES = {"cpu": 58, "gpu": 28, "other": 38}
_ENCODER_VALUES, _DECODER_VALUES = 3.1, 7.5


@dataclass(frozen=True)
class I2VGenXL(VideoModel):
    """See `VideoModel`; original: STAR's `ControlledV2VUNet` and its `VideoToVideo_sr`."""

    config: StarConfig

    config_type = StarConfig
    takes_branches = True

    @property
    def network_components(self) -> tuple[str, ...]:
        return "unet", "controlnet"

    @property
    def autoencoder_components(self) -> tuple[str, ...]:
        return ("vae",)

    @property
    def text_components(self) -> tuple[str, ...]:
        return () if self.config.text_encoder is None else ("text_encoder",)

    @property
    def light_components(self) -> tuple[str, ...]:
        return () if self.config.light_decoder is None else ("light_decoder",)

    def dtype_of(self, component: str) -> jnp.dtype:
        """The dtype of a component's weights.

        Outside training the autoencoder's weights are float32, and it computes in `vae_dtypes`. The light decoder's
        weights are always float32.
        """
        if component == "light_decoder":
            return jnp.dtype(jnp.float32)
        return jnp.dtype(jnp.float32) if component == "vae" and not self.training else self.dtype

    @property
    def autoencoder_dtypes(self) -> tuple[jnp.dtype, jnp.dtype]:
        return super().autoencoder_dtypes if self.training else self.vae_dtypes

    def build(
        self, component: str, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs
    ) -> nnx.Module:
        config = self.config
        kwargs: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        if component == "vae":
            if not self.training and dtype == jnp.float32:
                encoder, decoder = self.autoencoder_dtypes
                kwargs |= {"dtype": encoder, "decoder_dtype": decoder}
            # Its only attention has one head as wide as the channels, which the flash kernels do not take.
            return AutoencoderKLTemporalDecoder.from_config(
                config.vae, attention="auto", remat=self.remat, **kwargs
            )
        if component == "light_decoder":
            light = config.light_decoder
            if isinstance(light, TaesdvConfig):
                return taesdv.Taesdv(light, self.latent_channels, **kwargs)
            assert light is not None
            return light_decoder.LightDecoder(light, self.latent_channels, **kwargs)
        if component == "text_encoder":
            assert config.text_encoder is not None
            return CLIPTextEncoder.from_config(config.text_encoder, **kwargs)
        network = {"unet": UNet, "controlnet": ControlNet}[component]
        return network(config.unet, kernels=self.kernels, remat=self.remat, **kwargs)

    def is_trainable(self, path: str, *, train_base: bool = False) -> bool:
        """Trains the whole ControlNet and, in the base UNet, LIEM (with `train_base` the whole UNet)."""
        component, *parts = path.split("/")
        if component not in self.components:
            raise ValueError(
                f"{path} belongs to no component; preset {self.config.preset!r} has {', '.join(self.components)}"
            )
        if component == "controlnet":
            return True
        return component == "unet" and (train_base or any(part.startswith("liem") for part in parts))

    def start_leaf(self, component: str, path: str, leaf: np.ndarray) -> np.ndarray:
        """Starts from a picture pyramid and networks that pass on the hint, both useful from the first step on."""
        if component == "vae":
            return pyramid_leaf(self.config.vae, path, leaf)
        if component in self.network_components:
            return guess_leaf(self.config.unet, path, leaf)
        return leaf

    @property
    def size_rule(self) -> SizeRule:
        """Sizes that the strided convolutions and the cropped upsamplings bring back to themselves.

        With the original's four levels and padding of (2, 1), latent heights are 2 mod 8 (90 for 720 pixels) and
        latent widths 0 mod 8.
        """
        factor = self.config.vae.spatial_factor
        step = factor * 2 ** (len(self.config.unet.block_out_channels) - 1)
        rows, columns = (2 * (padding - 1) * factor % step for padding in self.config.unet.downsample_padding)
        return SizeRule(factor, step, (rows, columns))

    @property
    def latent_channels(self) -> int:
        return self.config.vae.latent_channels

    def memory_use(self, platform: str) -> MemoryUse:
        widths = self.config.unet.block_out_channels[0], self.config.vae.block_out_channels[0]
        network = _NETWORK_VALUES.get(platform, _NETWORK_VALUES["other"])
        match self.config.light_decoder:
            case None:
                light = 0.0
            case TaesdvConfig() as sizes:
                light = taesdv.values_per_pixel(sizes)
            case sizes:
                light = light_decoder.values_per_pixel(sizes)
        # A CPU computes in float32 whatever the dtype.
        halves = (1.0 if platform == "cpu" else dtype.itemsize / 4 for dtype in self.autoencoder_dtypes)
        encoder, decoder = (
            values * widths[1] * half
            for values, half in zip((_ENCODER_VALUES, _DECODER_VALUES), halves, strict=True)
        )
        return MemoryUse(network * widths[0], encoder, decoder, light)

    # Text.

    @property
    def context_shape(self) -> tuple[int, int]:
        text = self.config.text_encoder
        return 1 if text is None else text.max_position_embeddings, self.config.unet.cross_attention_dim

    @property
    def has_own_tokenizer(self) -> bool:
        text = self.config.text_encoder
        return text is not None and text.vocab_size == BYTE_LEVEL_VOCABULARY

    def write_tokenizer(self, checkpoint: str | os.PathLike) -> None:
        write_byte_level_tokenizer(Path(checkpoint) / TOKENIZER_DIR)

    def load_tokenizer(self, checkpoint: str | os.PathLike) -> Any | None:
        return load_tokenizer(Path(checkpoint) / TOKENIZER_DIR) if self.has_text else None

    def tokenize(self, tokenizer: Any, prompts: Sequence[str]) -> Int[np.ndarray, "B L"]:
        return tokenize(tokenizer, prompts, max_length=self.context_shape[0])

    def encode_text(self, params: Params, input_ids: Int[Array, "B L"]) -> Float[Array, "B L E"]:
        return self.bind(params, "text_encoder")(input_ids)

    # The autoencoder: each frame is encoded on its own; the frames of a chunk are decoded together.

    def encode_chunks(self, num_frames: int) -> tuple[int, ...]:
        return (CHUNK,) * -(-num_frames // CHUNK)

    def decode_chunks(self, num_frames: int, overlap: int = 0) -> tuple[Chunk, ...]:
        return independent_chunks(num_frames, CHUNK, overlap)

    def encode(
        self, params: Params, frames: Float[Array, "B F H W 3"], carry: Carry = None
    ) -> tuple[DiagonalGaussian, Carry]:
        return self.bind(params, "vae").encode(frames), carry

    def scaled(self, latents: jax.Array) -> jax.Array:
        return latents * self.config.vae.scaling_factor

    def decode(
        self, params: Params, latents: Float[Array, "B F h w C"], carry: Carry = None
    ) -> tuple[Float[Array, "B F H W 3"], Carry]:
        unscaled = latents / self.config.vae.scaling_factor
        return self.bind(params, "vae").decode(unscaled.astype(self.dtype_of("vae"))), carry

    @property
    def light_sees_frames(self) -> bool:
        return isinstance(self.config.light_decoder, LightDecoderConfig)

    @property
    def default_fidelity(self) -> float:
        if self.config.light_decoder is None:
            raise self._has_no_light_decoder()
        return getattr(self.config.light_decoder, "fidelity", 0.0)

    def decode_light(
        self,
        params: Params,
        latents: Float[Array, "B F h w C"],
        low: Float[Array, "B F l m 3"] | None,
        fidelity: ArrayLike,
        carry: Carry = None,
    ) -> tuple[Float[Array, "B F H W 3"], Carry]:
        if not self.light_components:
            raise self._has_no_light_decoder()
        if not self.light_sees_frames:
            return self.bind(params, "light_decoder")(latents, carry)
        of_clips = jnp.full((len(latents),), fidelity, jnp.float32)
        return self.bind(params, "light_decoder")(latents, low, of_clips, carry)

    # The network: the ControlNet's outputs steer the base UNet.

    def condition(self, params: Params, text: jax.Array) -> dict[str, TextProjections]:
        """Keys and values of the text at every site of both networks."""
        return {name: self.bind(params, name).project_text(text) for name in self.network_components}

    def velocity(
        self,
        params: Params,
        x: Float[Array, "B F H W C"],
        timesteps: Int[Array, " B"],
        conditioning: jax.Array | dict[str, TextProjections],
        hint: Float[Array, "B F H W C"],
        *,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "N F H W C"]:
        keys = None if dropout_key is None else fold_keys(dropout_key, (0, 1))
        texts, control = self._control(params, x, timesteps, conditioning, hint, key_at(keys, 0))
        return self.bind(params, "unet")(x, timesteps, texts["unet"], control, dropout_key=key_at(keys, 1))

    def features(
        self,
        params: Params,
        x: Float[Array, "B F H W C"],
        timesteps: Int[Array, " B"],
        conditioning: jax.Array | dict[str, TextProjections],
        hint: Float[Array, "B F H W C"],
    ) -> tuple[Float[Array, "N F H W C"], tuple[Float[Array, "N F _ _ _"], ...]]:
        """Returns features of the middle block and of all decoder levels but the coarsest and the finest."""
        texts, control = self._control(params, x, timesteps, conditioning, hint)
        return self.bind(params, "unet").features(x, timesteps, texts["unet"], control)

    def _control(
        self,
        params: Params,
        x: jax.Array,
        timesteps: jax.Array,
        conditioning: jax.Array | dict[str, TextProjections],
        hint: jax.Array,
        dropout_key: jax.Array | None = None,
    ) -> tuple[dict[str, Any], list[jax.Array]]:
        """The text for each network, and the ControlNet's outputs."""
        texts: dict[str, Any] = (
            conditioning
            if isinstance(conditioning, dict)
            else dict.fromkeys(self.network_components, conditioning)
        )
        control = self.bind(params, "controlnet")(
            x, timesteps, texts["controlnet"], hint, dropout_key=dropout_key
        )
        return texts, control

    def layers_to_measure(self, latents: tuple[int, int, int]) -> LayersToMeasure:
        encoder, decoder = self.autoencoder_dtypes
        layers = layer_parts(self.config, latents, self.dtype)
        of_vae = vae_parts(self.config, latents, decoder, encoder)
        return LayersToMeasure(
            tuple(operation_parts(self.config, latents, self.dtype, decoder)), (*layers, *of_vae)
        )
