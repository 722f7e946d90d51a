"""`VideoModel`: the interface of a backbone.

The pipeline, training, validation, data preparation, the memory plan, ahead-of-time compilation and the benchmarks
use a `VideoModel` and know none of its networks by name. A new backbone implements this class in its own folder and
is added to `star_jax.models.architectures`.

The interface has three parts, each a class that builds on the one before: the networks by name (`ComponentModel`),
frames and latents (`CodecModel`), and, here, prompts and sampling.

A model holds structure (sizes, dtypes, kernels) and never weights: methods take `params`, trees by component. It is
frozen and compared by value, so that it can be a static argument of jitted programs, which equal models then share.
"""

import abc
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from star_jax.diffusion.sampler import noised_latents
from star_jax.diffusion.schedule import NoiseSchedule
from star_jax.diffusion.solvers import SolverTable, solver_table
from star_jax.errors import InputError
from star_jax.models.codec_model import LIGHT_CHUNK, Carry, CodecModel
from star_jax.models.component_model import Params
from star_jax.models.part import LayersToMeasure

__all__ = ["LIGHT_CHUNK", "TOKENIZER_DIR", "Carry", "MemoryUse", "Params", "VideoModel"]

TOKENIZER_DIR = "tokenizer"  # folder in a checkpoint directory


@dataclass(frozen=True)
class MemoryUse:
    """Number of values that the compiled programs hold at once, fitted to the compiler's reports.

    Attributes:
      network: values per latent, for one branch of guidance.
      encoder: values of 4 bytes per pixel of the frames of a chunk.
      decoder: values of 4 bytes per pixel of the frames of a chunk.
      light_decoder: the same for the light decoder; 0 for a model without one.
    """

    network: float
    encoder: float
    decoder: float
    light_decoder: float = 0.0


@dataclass(frozen=True)
class VideoModel(CodecModel):
    """A backbone: its networks, its autoencoder, and how it is sampled; see `ComponentModel` for its attributes."""

    # Whether `velocity` takes the conditioning of several branches of guidance but the shared inputs only once, and
    # computes only once what does not depend on the text; see `guided_velocity`.
    takes_branches: ClassVar[bool] = False

    @abc.abstractmethod
    def memory_use(self, platform: str) -> MemoryUse:
        """Figures for the memory plan on `cpu`, `gpu` or `tpu`."""

    # Text.

    @property
    def has_text(self) -> bool:
        """Whether the model reads prompts."""
        return bool(self.text_components)

    @property
    @abc.abstractmethod
    def context_shape(self) -> tuple[int, int]:
        """(tokens, width) of one prompt's embeddings, or of the null context of a model without text."""

    @property
    def has_own_tokenizer(self) -> bool:
        """Whether `write_tokenizer` can write a tokenizer for the model's vocabulary."""
        return False

    def write_tokenizer(self, checkpoint: str | os.PathLike) -> None:
        """Writes a tokenizer for a checkpoint directory with random weights; see `has_own_tokenizer`.

        Raises:
          InputError: the model reads no text.
        """
        raise self._reads_no_text()

    def load_tokenizer(self, checkpoint: str | os.PathLike) -> Any | None:
        """The tokenizer in a checkpoint directory; None for a model without text.

        Raises:
          InputError: a file is missing or damaged.
        """
        del checkpoint
        return None

    def tokenize(self, tokenizer: Any, prompts: Sequence[str]) -> Int[np.ndarray, "B L"]:
        """Token IDs of prompts, int32 [B, tokens].

        Raises:
          InputError: the model reads no text.
        """
        raise self._reads_no_text()

    def encode_text(self, params: Params, input_ids: Int[Array, "B L"]) -> Float[Array, "B L E"]:
        """Text embeddings [B, tokens, width] of token IDs int32 [B, tokens].

        Raises:
          InputError: the model reads no text.
        """
        raise self._reads_no_text()

    @property
    def text_dropout(self) -> float:
        """Fraction of training samples that get the context of the unconditional branch."""
        return 0.0

    def _reads_no_text(self) -> InputError:
        return InputError(f"preset {self.config.preset!r} reads no text; leave out the prompt")

    def unconditional_context(self, negative: jax.Array) -> jax.Array:
        """The embeddings for the unconditional branch of guidance, given those of the negative prompt."""
        return negative

    def empty_context(self, batch: int) -> Float[Array, "{batch} L E"]:
        """The context of a model without text: zeros [B, tokens, width]."""
        return jnp.zeros((batch, *self.context_shape), self.dtype)

    # The network, and how it is sampled.

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise levels of the diffusion process."""
        return NoiseSchedule.from_config(self.config.diffusion)

    @property
    def start_timestep(self) -> int:
        """The timestep at which sampling starts."""
        return self.config.diffusion.start_timestep

    def solver_table(self, *, solver: str, spacing: str, num_inference_steps: int) -> SolverTable:
        """The table of a solver that starts at the model's start timestep.

        Raises:
          InputError: unknown solver or spacing, or a count out of range.
        """
        return solver_table(
            self.schedule,
            solver=solver,
            spacing=spacing,
            num_inference_steps=num_inference_steps,
            start_timestep=self.start_timestep,
        )

    def is_guided(self, guidance_scale: float) -> bool:
        """Whether the network is evaluated for both branches of guidance."""
        return self.has_text and guidance_scale != 1.0

    def guidance_scales(self, guidance_scale: float, table: SolverTable) -> float | np.ndarray:
        """Weight of the prompt: one number, or one for each row of the solver's table."""
        del table
        return guidance_scale

    def start(
        self, hint: Float[Array, "B F H W C"], key: Key[Array, ""], first_latent: int | Int[Array, ""] = 0
    ) -> Float[Array, "B F H W C"]:
        """Start of sampling, float32: the low-resolution latents [B, F, h, w, C], with noise or as they are.

        `first_latent` is the position of the first latent in the clip, which keys the noise.
        """
        diffusion = self.config.diffusion
        if diffusion.start == "hint":
            # Divided by the factor that the sampler applies, so that the network sees the hint.
            return hint.astype(jnp.float32) / np.float32(self.schedule.sigmas[diffusion.start_timestep])
        return noised_latents(
            self.schedule, hint, key, start_timestep=diffusion.start_timestep, first_frame=first_latent
        )

    def condition(self, params: Params, text: jax.Array) -> Any:
        """Prepares text embeddings [B, tokens, width] for the network, once for all steps of sampling.

        The result is a pytree of arrays whose first axis is B. `velocity` takes it or the embeddings themselves.
        """
        del params
        return text

    @abc.abstractmethod
    def velocity(
        self,
        params: Params,
        x: jax.Array,
        timesteps: jax.Array,
        conditioning: Any,
        hint: jax.Array,
        *,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Predicts the velocity.

        Args:
          params: weights of at least `network_components`.
          x: noisy latents [B, F, h, w, C].
          timesteps: int32 [B].
          conditioning: text embeddings, or the result of `condition`.
          hint: low-resolution latents [B, F, h, w, C].
          dropout_key: None for inference.

        Returns:
          Array of the shape of x, in the network's dtype.
        """

    def features(
        self, params: Params, x: jax.Array, timesteps: jax.Array, conditioning: Any, hint: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """The velocity, and intermediate activations [B, F, h, w, C] for a discriminator.

        Args:
          params, x, timesteps, conditioning, hint: see `velocity`.

        Raises:
          InputError: the backbone does not return features.
        """
        raise InputError(
            f"preset {self.config.preset!r} returns no features, which rung dual_stream needs; choose a preset "
            "that does, such as i2vgen-xl"
        )

    def layers_to_measure(self, latents: tuple[int, int, int]) -> LayersToMeasure:
        """Single layers at the sizes that latents (F, h, w) give them, in the model's dtypes.

        Raises:
          InputError: the backbone lists no layers.
        """
        raise InputError(
            f"preset {self.config.preset!r} lists no layers to measure one by one; choose one that does, such as "
            f"i2vgen-xl, or measure whole networks with star-jax benchmark inference"
        )

    def __call__(self, params: Params, *args: Any, **kwargs: Any) -> jax.Array:
        """Calls `velocity`: a model is a `VelocityFn`, so that equal models share a jitted sampler's program."""
        return self.velocity(params, *args, **kwargs)
