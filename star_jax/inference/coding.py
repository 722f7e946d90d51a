"""Encodes and decodes whole clips, one chunk after another, while their frames are read."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.errors import RunError
from star_jax.inference.memory import encoded_clips
from star_jax.inference.pieces import (
    Canvas,
    Finish,
    cut_pieces,
    cut_ranges,
    decode_chunk,
    decode_light_chunk,
    encode_chunk,
    fill_piece,
)
from star_jax.inference.settings import UpscaleSettings
from star_jax.models.chunks import Chunk
from star_jax.models.video_model import LIGHT_CHUNK, Carry, VideoModel

# (frames per piece) -> pieces uint8 or uint16 [f, H, W, 3]; each call reads the clip from its start.
ReadPieces = Callable[[int], Iterable[np.ndarray]]


@dataclass(frozen=True)
class ClipCoder:
    """Encodes and decodes clips with a model's autoencoder.

    Attributes:
      model: the model.
      params: tree of weights of each component.
    """

    model: VideoModel
    params: dict[str, Any]

    def encode(
        self, read: ReadPieces, num_frames: int, canvas: Canvas, key: jax.Array, window: int
    ) -> Iterator[tuple[int, jax.Array]]:
        """Yields (number of frames encoded so far, latents [f, h, w, C] of the newest of these frames).

        A short last chunk is padded, so that it needs no separate program. If the model treats windows as separate
        clips, each is encoded by itself, with the noise of the whole clip's latents at the same place.
        """
        model, rule = self.model, self.model.size_rule
        params = {name: self.params[name] for name in model.autoencoder_components}
        chunks = [
            (start, first, size)
            for start, stop in encoded_clips(rule, num_frames, window)
            for first, size in _starts(model.encode_chunks(stop - start))
        ]
        ranges = [(start + first, start + first + size) for start, first, size in chunks]
        done, carry = 0, None
        pieces = cut_ranges(read(max(size for *_, size in chunks)), ranges)
        for (start, first, size), piece in zip(chunks, pieces, strict=True):
            done = max(done, min(start + first + size, num_frames))
            latent = rule.latents_before(start) + rule.latents_before(first)
            latents, carry = encode_chunk(
                model,
                canvas,
                params,
                fill_piece(piece, size, at_end=True),
                carry if first else None,
                key,
                np.int32(latent),
            )
            yield done, latents[: rule.num_latents(num_frames) - latent]

    def decode(
        self,
        latents: jax.Array,
        read: ReadPieces,
        num_frames: int,
        canvas: Canvas,
        settings: UpscaleSettings,
        skip: int,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number of frames decoded so far, the newest of these frames [f, H, W, 3]) after frame `skip`.

        Frames have the dtype of those that `read` gives. Earlier chunks are decoded only if the next chunk needs
        their carry.

        Raises:
          RunError: the decoded values are not finite.
        """
        padded = self.model.size_rule.padded_frames(num_frames)
        chunks = self.model.decode_chunks(padded, settings.decode_overlap)
        finish = Finish(settings.color_fix, settings.strength)
        sizes = [stop - start for start, stop in (chunk.frames for chunk in chunks)]
        done, carry = 0, None
        for chunk, piece in zip(chunks, cut_pieces(read(max(sizes)), sizes), strict=True):
            done += len(piece)
            if len(piece) < done <= skip and carry is None:
                continue
            frames, finite, carry = self._decode_chunk(latents, chunk, carry, piece, canvas, finish)
            require_finite(finite, "decoding")
            if done > skip:
                yield done, np.asarray(frames)
            del frames

    def decode_light(
        self,
        latents: jax.Array,
        read: ReadPieces,
        num_frames: int,
        canvas: Canvas,
        settings: UpscaleSettings,
        fidelity: float,
        skip: int,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Like `decode`, with the light decoder, whose carry is the previous frame; a short last chunk is padded.

        Raises:
          RunError: the decoded values are not finite.
        """
        params = {name: self.params[name] for name in self.model.light_components}
        finish = Finish(settings.color_fix, settings.strength)
        sizes = [LIGHT_CHUNK] * -(-num_frames // LIGHT_CHUNK)
        done, carry = 0, None
        for piece in cut_pieces(read(LIGHT_CHUNK), sizes):
            of_piece = latents[:, done : done + len(piece)]
            missing = LIGHT_CHUNK - len(piece)
            frames, finite, carry = decode_light_chunk(
                self.model,
                canvas,
                finish,
                params,
                jnp.pad(of_piece, ((0, 0), (0, missing), (0, 0), (0, 0), (0, 0)), mode="edge"),
                carry,
                np.float32(fidelity),
                fill_piece(piece, LIGHT_CHUNK, at_end=True),
            )
            require_finite(finite, "decoding")
            done += len(piece)
            if done > skip:
                yield done, np.asarray(frames[: len(piece)])
            del frames

    def decode_piece(
        self, latents: jax.Array, chunk: Chunk, piece: np.ndarray, canvas: Canvas, finish: Finish
    ) -> np.ndarray:
        """Decodes one chunk of a model whose chunks do not depend on earlier ones.

        Args:
          latents: clean latents [1, F, h, w, C] that the chunk's positions refer to.
          chunk: see `VideoModel.decode_chunks`.
          piece: low-resolution frames of the chunk [f, H, W, 3].
          canvas, finish: see `Canvas` and `Finish`.

        Returns:
          frames [f, scale H, scale W, 3] of the dtype of `piece`.

        Raises:
          RunError: the decoded values are not finite.
        """
        frames, finite, _ = self._decode_chunk(latents, chunk, None, piece, canvas, finish)
        require_finite(finite, "decoding")
        return np.asarray(frames)

    def _decode_chunk(
        self,
        latents: jax.Array,
        chunk: Chunk,
        carry: Carry,
        piece: np.ndarray,
        canvas: Canvas,
        finish: Finish,
    ) -> tuple[jax.Array, jax.Array, Carry]:
        """Decodes the frames of `piece`; returns (frames, whether they are finite, carry)."""
        start, stop = chunk.frames
        reference = fill_piece(piece, stop - start, at_end=True)
        frames, finite, carry = decode_chunk(
            self.model,
            canvas,
            finish,
            {name: self.params[name] for name in self.model.autoencoder_components},
            latents[:, slice(*chunk.latents)],
            carry,
            np.int32(chunk.first_kept),
            fill_piece(reference, chunk.kept, at_end=False),
        )
        return frames[chunk.kept - (stop - start) :][: len(piece)], finite, carry


def _starts(sizes: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(first frame, number of frames) of consecutive chunks."""
    first = 0
    for size in sizes:
        yield first, size
        first += size


def require_finite(finite: jax.Array, stage: str) -> None:
    """Checks the result of a stage.

    Raises:
      RunError: `finite` is false.
    """
    if not bool(finite):
        raise RunError(
            f"{stage} produced numbers that are not finite; try --dtype float32 --vae-dtype float32, or convert "
            "the checkpoint again"
        )
