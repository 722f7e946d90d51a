"""Chunks: the few frames of a clip that an autoencoder takes at a time."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Chunk:
    """A stretch of a clip that is decoded at once.

    Attributes:
      frames: [start, stop) of the frames that the chunk contributes.
      latents: [start, stop) of the latents that are decoded together.
      decoded: number of frames that the latents decode to.
      first_kept: position of the first frame kept among those decoded.
      kept: number of frames kept. The last of them are `frames`; there are more where a short last chunk shares its
        program with the other chunks.
    """

    frames: tuple[int, int]
    latents: tuple[int, int]
    decoded: int
    first_kept: int
    kept: int


def moved(chunk: Chunk, by: int) -> Chunk:
    """The chunk shifted by a number of frames, in a clip with one latent per frame."""
    (start, stop), (first, last) = chunk.frames, chunk.latents
    return dataclasses.replace(chunk, frames=(start + by, stop + by), latents=(first + by, last + by))


def independent_chunks(num_frames: int, size: int, overlap: int = 0) -> tuple[Chunk, ...]:
    """Chunks of an autoencoder with one latent per frame that keeps nothing from one chunk to the next.

    Without overlap each chunk decodes exactly its own frames, as in the released system. A short last chunk then
    needs its own program: the decoder's temporal layers see zeros beyond a chunk's end, so neither padding nor
    shifting it would give the same frames. With overlap, all chunks have one length and are shifted into the clip.

    Args:
      num_frames: number of frames of the clip.
      size: frames per chunk.
      overlap: extra frames decoded before and after each chunk as context for the temporal layers.
    """
    chunks = []
    for start in range(0, num_frames, size):
        stop = min(start + size, num_frames)
        if overlap == 0:
            chunks.append(Chunk((start, stop), (start, stop), stop - start, 0, stop - start))
            continue
        kept, length = min(size, num_frames), min(size + 2 * overlap, num_frames)
        first_kept = min(start, num_frames - kept)
        first = min(max(first_kept - overlap, 0), num_frames - length)
        chunks.append(Chunk((start, stop), (first, first + length), length, first_kept - first, kept))
    return tuple(chunks)
