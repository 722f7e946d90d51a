"""A model's autoencoder, which encodes clips to latents and decodes them again, chunk by chunk."""

import abc
from typing import Any

import jax
from jax.typing import ArrayLike

from star_jax.errors import InputError
from star_jax.models.chunks import Chunk
from star_jax.models.component_model import ComponentModel, Params
from star_jax.models.posterior import DiagonalGaussian
from star_jax.models.size_rule import SizeRule
from star_jax.ops.pixels import enlarge, to_float

Carry = Any  # state that an autoencoder keeps from one chunk to the next: a pytree, or None

# Frames that a light decoder takes at once. Its memory makes the result independent of this number.
LIGHT_CHUNK = 3


class CodecModel(ComponentModel):
    """A model's autoencoder: the second part of a `VideoModel`."""

    @property
    @abc.abstractmethod
    def size_rule(self) -> SizeRule:
        """The clips that the model takes."""

    @property
    @abc.abstractmethod
    def latent_channels(self) -> int:
        """Channels of the latents that are sampled."""

    def enlarge(self, frames: jax.Array, size: tuple[int, int]) -> jax.Array:
        """Enlarges low-resolution frames to the output's size, for the autoencoder.

        Args:
          frames: uint8 or uint16 [..., h, w, 3].
          size: (H, W).

        Returns:
          float32 [..., H, W, 3] in [-1, 1].
        """
        return enlarge(to_float(frames), size)

    @abc.abstractmethod
    def encode_chunks(self, num_frames: int) -> tuple[int, ...]:
        """Numbers of frames in the chunks to encode, in order; their sum is at least `num_frames`."""

    @abc.abstractmethod
    def decode_chunks(self, num_frames: int, overlap: int = 0) -> tuple[Chunk, ...]:
        """The chunks in which a clip is decoded, in order.

        Args:
          num_frames: number of frames of the clip, padded to a length that the model takes.
          overlap: extra frames that are decoded before and after each chunk and then dropped.

        Raises:
          InputError: the model does not support this overlap.
        """

    @abc.abstractmethod
    def encode(
        self, params: Params, frames: jax.Array, carry: Carry = None
    ) -> tuple[DiagonalGaussian, Carry]:
        """The posterior of a chunk's latents, and the carry for the next chunk.

        Args:
          params: weights of at least `autoencoder_components`.
          frames: [B, F, H, W, 3] in [-1, 1].
          carry: carry of the previous chunk; None for a clip's first chunk.

        Returns:
          Mean and log variance of [B, f, h, w, latent_channels], unscaled; the carry.
        """

    def scaled(self, latents: jax.Array) -> jax.Array:
        """Scales the autoencoder's latents to about unit deviation, as the network takes them."""
        return latents

    @abc.abstractmethod
    def decode(self, params: Params, latents: jax.Array, carry: Carry = None) -> tuple[jax.Array, Carry]:
        """The frames of a chunk, and the carry for the next chunk.

        Args:
          params: weights of at least `autoencoder_components`.
          latents: [B, f, h, w, latent_channels], scaled.
          carry: carry of the previous chunk; None for a clip's first chunk.

        Returns:
          [B, F, H, W, 3], roughly in [-1, 1], not clipped; the carry.
        """

    # The light decoder, if there is one.

    @property
    def light_sees_frames(self) -> bool:
        """Whether the light decoder sees the low-resolution frames, and so keeps their colours by itself."""
        return True

    @property
    def default_fidelity(self) -> float:
        """The light decoder's fidelity unless the user chooses one, from 0 to 1.

        Raises:
          InputError: the model has no light decoder.
        """
        raise self._has_no_light_decoder()

    def decode_light(
        self,
        params: Params,
        latents: jax.Array,
        low: jax.Array | None,
        fidelity: ArrayLike,
        carry: Carry = None,
    ) -> tuple[jax.Array, Carry]:
        """The frames of a chunk by the light decoder, and the carry for the next chunk.

        Args:
          params: weights of at least `light_components`.
          latents: [B, f, h, w, latent_channels], scaled.
          low: low-resolution frames [B, f, H / 4, W / 4, 3] in [-1, 1]; None for a decoder that does not see them.
          fidelity: from 0 (plausible detail) to 1 (closeness to the ground truth).
          carry: carry of the previous chunk; None for a clip's first chunk.

        Returns:
          [B, F, H, W, 3], roughly in [-1, 1], not clipped; the carry.

        Raises:
          InputError: the model has no light decoder.
        """
        raise self._has_no_light_decoder()

    def _has_no_light_decoder(self) -> InputError:
        return InputError(f"preset {self.config.preset!r} has no light decoder; choose --decoder full")
