"""STAR on CogVideoX: a diffusion transformer, a causal 3-D autoencoder and T5's encoder."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from star_jax.config.cogvideox import CogVideoXConfig
from star_jax.diffusion.noise import frame_noise
from star_jax.diffusion.schedule import NoiseSchedule
from star_jax.diffusion.solvers import SolverTable
from star_jax.diffusion.zero_snr import dynamic_guidance, zero_snr_schedule, zero_snr_table
from star_jax.errors import InputError
from star_jax.models.chunks import Chunk
from star_jax.models.cogvideox.transformer import CogVideoXTransformer
from star_jax.models.cogvideox.vae import FIRST_GROUP, NEXT_GROUPS, AutoencoderKLCogVideoX
from star_jax.models.posterior import DiagonalGaussian
from star_jax.models.size_rule import SizeRule
from star_jax.models.t5.encoder import T5Encoder
from star_jax.models.t5.tokenizer import (
    BYTE_LEVEL_VOCABULARY,
    load_tokenizer,
    tokenize,
    write_byte_level_tokenizer,
)
from star_jax.models.video_model import TOKENIZER_DIR, Carry, MemoryUse, Params, VideoModel
from star_jax.ops.pixels import resize_levels, to_float

SOLVER = "dpmpp_2m_sde"

# Parts of the transformer that the released training changes: before and after its layers, and within them.
_TRAINED_ENDS = ("patch_embed/proj/", "norm_final/", "norm_out/", "proj_out/")
_TRAINED_WITHIN = ("lora_a", "lora_b", "spatial_liem", "temporal_liem")

# Values held at once. Transformer: in widths per token. Autoencoder: in channels of the finest level per pixel of
# the chunk. The encoder holds two copies of the clip's activations, as TPUs lay them out, and those of a stretch;
# the decoder holds two copies, the convolutions' caches, and a band.
_NETWORK_WIDTHS, _ENCODER_COPIES, _DECODER_COPIES = 12.5, 2.2, 7.6


@dataclass(frozen=True)
class CogVideoX(VideoModel):
    """See `VideoModel`; original: the CogVideoX part of STAR's released code."""

    config: CogVideoXConfig

    config_type = CogVideoXConfig

    @property
    def network_components(self) -> tuple[str, ...]:
        return ("transformer",)

    @property
    def autoencoder_components(self) -> tuple[str, ...]:
        return ("vae",)

    @property
    def text_components(self) -> tuple[str, ...]:
        return ("text_encoder",)

    def build(
        self, component: str, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs
    ) -> nnx.Module:
        config = self.config
        kwargs: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        if component == "vae":
            return AutoencoderKLCogVideoX(config.vae, remat=self.remat, **kwargs)
        if component == "text_encoder":
            return T5Encoder(config.text_encoder, **kwargs)
        return CogVideoXTransformer(
            config.transformer, attention=self.kernels.spatial, remat=self.remat, **kwargs
        )

    def is_trainable(self, path: str, *, train_base: bool = False) -> bool:
        """Trains the low-rank updates, LIEM, the input projection and the last layers, or with `train_base` all."""
        component, rest = path.split("/", 1)
        if component != "transformer":
            return False
        is_within = any(part in _TRAINED_WITHIN for part in rest.split("/"))
        return is_within or rest.startswith(_TRAINED_ENDS) or train_base

    @property
    def size_rule(self) -> SizeRule:
        """Sides are whole patches and clips have 8 k + 1 frames: latents are decoded three, then two at a time."""
        vae, factor = self.config.vae, self.config.vae.spatial_factor
        sizes = self.config.transformer
        step = factor * sizes.patch_size
        return SizeRule(
            factor,
            step,
            frames_per_latent=vae.temporal_factor,
            frame_step=NEXT_GROUPS * vae.temporal_factor,
            least_frames=_frames_of(vae.temporal_factor, FIRST_GROUP),
            only_tile=(sizes.grid[1] * step, sizes.grid[2] * step) if sizes.other_grids == "exact" else None,
        )

    @property
    def latent_channels(self) -> int:
        return self.config.vae.latent_channels

    def memory_use(self, platform: str) -> MemoryUse:
        tokens = 1 / self.config.transformer.patch_size**2
        channels = self.config.vae.block_out_channels[0]
        # The plan counts an autoencoder's values as float32; a CPU computes in float32 whatever the dtype.
        share = 1.0 if platform == "cpu" else self.dtype_of("vae").itemsize / 4
        return MemoryUse(
            _NETWORK_WIDTHS * self.config.transformer.width * tokens,
            _ENCODER_COPIES * channels * share,
            _DECODER_COPIES * channels * share,
        )

    # Text: every prompt has the same number of tokens, and attention does not mask the padding.

    @property
    def context_shape(self) -> tuple[int, int]:
        return self.config.transformer.text_length, self.config.transformer.text_embed_dim

    @property
    def has_own_tokenizer(self) -> bool:
        return self.config.text_encoder.vocab_size == BYTE_LEVEL_VOCABULARY

    def write_tokenizer(self, checkpoint: str | os.PathLike) -> None:
        write_byte_level_tokenizer(os.path.join(checkpoint, TOKENIZER_DIR))

    def load_tokenizer(self, checkpoint: str | os.PathLike) -> Any:
        return load_tokenizer(os.path.join(checkpoint, TOKENIZER_DIR))

    def tokenize(self, tokenizer: Any, prompts: Sequence[str]) -> Int[np.ndarray, "B L"]:
        return tokenize(tokenizer, prompts, max_length=self.context_shape[0])

    def encode_text(self, params: Params, input_ids: Int[Array, "B L"]) -> Float[Array, "B L E"]:
        return self.bind(params, "text_encoder")(input_ids)

    @property
    def text_dropout(self) -> float:
        """The rate of the released training, not counting empty captions in the data."""
        return 0.1

    def unconditional_context(self, negative: jax.Array) -> jax.Array:
        """Zeros, as in the released system, rather than the embedding of an empty prompt."""
        return jnp.zeros_like(negative)

    def enlarge(self, frames: jax.Array, size: tuple[int, int]) -> jax.Array:
        """Enlarges frames bicubically and rounds to whole levels, as the released system does."""
        if frames.dtype != jnp.uint8:  # no rounding to 8 bits
            shape = (*frames.shape[:-3], *size, frames.shape[-1])
            return jax.image.resize(to_float(frames), shape, "bicubic", antialias=False)
        return resize_levels(frames, size) / 127.5 - 1.0

    # The autoencoder: a clip is encoded whole, and decoded in groups that pass on their last activations.

    def encode_chunks(self, num_frames: int) -> tuple[int, ...]:
        padded = self.size_rule.padded_frames(num_frames)
        if not self._encodes_groups(padded):
            return (padded,)
        first, later = self.size_rule.least_frames, self.size_rule.frame_step
        return (first, *(later,) * ((padded - first) // later))

    def _encodes_groups(self, num_frames: int) -> bool:
        """Whether a clip is encoded in groups: by request, or because it is longer than the network's own clips."""
        most = _frames_of(self.config.vae.temporal_factor, self.config.transformer.grid[0])
        return self.config.encode_groups or num_frames > most

    def decode_chunks(self, num_frames: int, overlap: int = 0) -> tuple[Chunk, ...]:
        if overlap:
            raise InputError(
                f"decode_overlap is {overlap}; this model carries its state from group to group, so choose 0"
            )
        first, step = self.size_rule.least_frames, self.size_rule.frame_step
        chunks = [Chunk((0, first), (0, FIRST_GROUP), first, 0, first)]
        for i in range((num_frames - first) // step):
            start, latent = first + i * step, FIRST_GROUP + i * NEXT_GROUPS
            chunks.append(Chunk((start, start + step), (latent, latent + NEXT_GROUPS), step, 0, step))
        return tuple(chunks)

    def encode(
        self, params: Params, frames: Float[Array, "B F H W 3"], carry: Carry = None
    ) -> tuple[DiagonalGaussian, Carry]:
        vae = self.bind(params, "vae")
        frames = frames.astype(self.dtype_of("vae"))
        if carry is None and not self._is_first_group(frames.shape[1]):
            return vae.encode(frames), None
        return vae.encode_group(frames, carry)

    def _is_first_group(self, num_frames: int) -> bool:
        """Whether the frames are a first group; for a clip that ends there, encoding it whole gives the same."""
        return num_frames == self.size_rule.least_frames

    def scaled(self, latents: jax.Array) -> jax.Array:
        return latents * self.config.vae.scaling_factor

    def decode(
        self, params: Params, latents: Float[Array, "B f h w C"], carry: Carry = None
    ) -> tuple[Float[Array, "B F H W 3"], Carry]:
        """Decodes a chunk; in training all latents of a clip come in one call, as in the released system."""
        return _decode(self, {"vae": params["vae"]}, latents / self.config.vae.scaling_factor, carry)

    # The network takes low-resolution latents as further channels of the noisy ones; sampling starts from noise.

    @property
    def schedule(self) -> NoiseSchedule:
        return zero_snr_schedule(self.config.diffusion)

    def solver_table(self, *, solver: str, spacing: str, num_inference_steps: int) -> SolverTable:
        del spacing  # steps are always spaced evenly from the last timestep
        if solver != SOLVER:
            raise InputError(f"solver is {solver!r}; preset {self.config.preset!r} has only {SOLVER}")
        return zero_snr_table(self.config.diffusion, num_inference_steps)

    def guidance_scales(self, guidance_scale: float, table: SolverTable) -> float | np.ndarray:
        if not self.config.dynamic_guidance or not self.is_guided(guidance_scale):
            return guidance_scale
        return dynamic_guidance(guidance_scale, table.rows.timestep)

    def start(
        self, hint: Float[Array, "B F H W C"], key: Key[Array, ""], first_latent: int | Int[Array, ""] = 0
    ) -> Float[Array, "B F H W C"]:
        """Pure noise."""
        return frame_noise(key, "start", hint.shape, first_frame=first_latent)

    def velocity(
        self,
        params: Params,
        x: Float[Array, "B F H W C"],
        timesteps: Int[Array, " B"],
        conditioning: Float[Array, "B L E"],
        hint: Float[Array, "B F H W C"],
        *,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B F H W C"]:
        del dropout_key  # the network has no dropout
        latents = jnp.concatenate([x, hint], axis=-1).astype(self.dtype)
        return self.bind(params, "transformer")(latents, timesteps, conditioning.astype(self.dtype))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _decode(model: CogVideoX, params: Params, latents: jax.Array, carry: Carry) -> tuple[jax.Array, Carry]:
    """Decodes unscaled latents in bands of rows; the gradients come from the layers on whole frames.

    A backward pass through bands would keep the intermediates of every band, which remat of whole layers does not.
    """
    return model.bind(params, "vae").decode_group(latents.astype(model.dtype_of("vae")), carry)


def _decode_forward(
    model: CogVideoX, params: Params, latents: jax.Array, carry: Carry
) -> tuple[tuple[jax.Array, Carry], tuple[Params, jax.Array, Carry]]:
    return _decode(model, params, latents, carry), (params, latents, carry)


def _decode_backward(model: CogVideoX, saved: tuple[Params, jax.Array, Carry], cotangents: Any) -> Any:
    def at_once(params: Params, latents: jax.Array, carry: Carry) -> tuple[jax.Array, Carry]:
        latents = latents.astype(model.dtype_of("vae"))
        return model.bind(params, "vae").decode_group(latents, carry, band_pixels=None)

    return jax.vjp(at_once, *saved)[1](cotangents)


_decode.defvjp(_decode_forward, _decode_backward)


def _frames_of(temporal_factor: int, latents: int) -> int:
    return (latents - 1) * temporal_factor + 1
