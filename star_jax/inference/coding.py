"""Encodes and decodes whole clips, chunk after chunk, as their frames are read."""

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
    """The autoencoder of a model at work on clips.

    Attributes:
      model: the model.
      params: tree of weights of each component.
    """

    model: VideoModel
    params: dict[str, Any]

    def encode(
        self, read: ReadPieces, num_frames: int, canvas: Canvas, key: jax.Array, window: int
    ) -> Iterator[tuple[int, jax.Array]]:
        """Yields the number of frames encoded so far, and the latents [f, h, w, C] of the newest of them.

        A short last chunk is filled up, so that it needs no program of its own. Where windows are clips of their
        own, each is encoded by itself; their noise is that of the clip's latents at the same place.
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
        """Yields the number of frames decoded so far, and the newest of them, uint8 [f, H, W, 3], after `skip`.

        Chunks before that are decoded only where the next one takes something over from them.

        Raises:
          RunError: they are not finite.
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
        """`decode` by the light decoder, which remembers the frame before: a short last chunk is filled up.

        Raises:
          RunError: they are not finite.
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
        """The frames of one chunk of a model whose chunks take nothing from those before.

        Args:
          latents: clean latents [1, F, h, w, C] that the chunk's positions refer to.
          chunk: see `VideoModel.decode_chunks`.
          piece: its low-resolution frames [f, H, W, 3].
          canvas, finish: see there.

        Raises:
          RunError: they are not finite.
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
        """Decodes the frames that `piece` has in low resolution, and says whether they are finite."""
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
    """(first frame, number of frames) of chunks one after the other."""
    first = 0
    for size in sizes:
        yield first, size
        first += size


def require_finite(finite: jax.Array, stage: str) -> None:
    """Ends a run whose numbers went wrong.

    Raises:
      RunError: they are not finite.
    """
    if not bool(finite):
        raise RunError(
            f"{stage} produced numbers that are not finite; try --dtype float32 --vae-dtype float32, or convert "
            "the checkpoint again"
        )
