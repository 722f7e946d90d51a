"""Upscales frames as they come with a one-step model: each frame is returned a bounded number of frames later.

    frames -> encoded chunks -> denoised windows -> decoded chunks -> frames

Every stage works as soon as it has its input, on the same chunks and windows into which `StarPipeline` would cut
the whole clip. A window can begin once it is known not to be the last one, which takes a quarter of a window more.
With more than one step, windows exchange their overlaps after each step, and the first frame would wait for the
last.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.diffusion.noise import noise_key
from star_jax.diffusion.windows import LAST_WINDOW_STRETCH, kept_frames
from star_jax.errors import InputError
from star_jax.inference.memory import latent_windows
from star_jax.inference.pieces import Finish, encode_chunk, fill_piece
from star_jax.inference.settings import UpscaleSettings
from star_jax.models.chunks import Chunk, moved
from star_jax.models.video_model import VideoModel

_AT_ONCE = 5  # number of chunks that are computed together: the first ones of a clip are cut differently


def takes_frames_as_they_come(model: VideoModel, settings: UpscaleSettings) -> bool:
    """Whether a session supports the model with these settings; it decodes with the autoencoder's own decoder."""
    is_full = settings.light_fidelity(model) is None
    return is_full and settings.num_inference_steps == 1 and model.size_rule.frames_per_latent == 1


class StreamSession:
    """Upscales one clip after another as frames come; `StarPipeline.stream_session` makes a session.

    `step` takes frames and returns those that are done; `flush` ends the clip and returns the rest. Afterwards the
    next clip may begin.

    Raises:
      InputError: the settings have several steps or the light decoder, or several frames make one latent.
    """

    def __init__(
        self,
        pipeline: Any,
        size: tuple[int, int],
        settings: UpscaleSettings,
        on_progress: Callable[[str, int], None] = lambda stage, frames: None,
    ):
        """See `StarPipeline.stream_session`; `on_progress` is called with (stage, number of frames done)."""
        model = pipeline.model
        if settings.light_fidelity(model) is not None:
            raise InputError("a stream session decodes with the full decoder; set decoder='full'")
        if settings.num_inference_steps != 1:
            raise InputError(
                f"num_inference_steps is {settings.num_inference_steps}; a stream session needs a model that was "
                "distilled to one step (docs/distillation.md)"
            )
        if model.size_rule.frames_per_latent != 1:
            raise InputError(
                f"preset {model.config.preset!r} makes one latent of several frames; a stream session needs a "
                "model with one latent per frame"
            )
        settings.check_tiles(model.size_rule)
        self._pipeline, self._model, self._settings = pipeline, model, settings
        self._size, self._canvas = tuple(size), pipeline.canvas(size, settings)
        self._finish = Finish(settings.color_fix, settings.strength)
        self._key = noise_key(settings.seed)
        self._contexts = pipeline.denoiser.encode_prompts(settings)
        self._dtype = np.dtype(np.uint8)
        self._to_drop, self._on_progress = 0, on_progress
        self._begin()

    def _begin(self) -> None:
        self._frames = _Buffer()  # starts with the next frames to be decoded
        self._hint, self._latents = _Buffer(axis=1), _Buffer(axis=1)
        self._window = 0  # first frame of the next window
        self._chunk = 0  # number of the next chunk to be decoded

    def skip(self, done: int, num_frames: int) -> None:
        """Skips frames that an earlier run has returned. Call it first; frames are still given from the start.

        Nothing is computed that only the skipped frames need.

        Args:
          done: number of frames at the start to skip; a whole number of chunks.
          num_frames: number of the clip's frames.
        """
        self._chunk = done // self._chunk_size
        overlap = self._settings.decode_overlap
        # The clip's end may shift the last chunk back.
        first = max(0, (self._chunk - 1) * self._chunk_size - 2 * overlap)
        windows = latent_windows(self._model.size_rule, num_frames, self._settings.window)
        (self._window, _), (decides, _) = max(
            pair for pair in zip(windows, kept_frames(windows), strict=True) if pair[1][0] <= first
        )
        encoded = self._window - self._window % self._encode_size
        self._frames, self._hint = _Buffer(encoded), _Buffer(encoded, axis=1)
        self._latents = _Buffer(decides, axis=1)
        self._to_drop = encoded

    @property
    def delay(self) -> int:
        """Largest number of frames that are held back after a step."""
        chunk = self._chunk_size + 2 * self._settings.decode_overlap
        return int(LAST_WINDOW_STRETCH * self._settings.window) + self._encode_size - 1 + chunk

    def step(self, frames: np.ndarray) -> np.ndarray:
        """Takes the next frames of the clip.

        Args:
          frames: any number of frames of the session's size, uint8 or uint16 [f, H, W, 3].

        Returns:
          [k, scale H, scale W, 3] of the same dtype: the next frames that are done; k may be 0, or above f.

        Raises:
          InputError: the frames have another shape or dtype.
          RunError: the network produced values that are not finite.
        """
        if (
            frames.ndim != 4
            or frames.shape[1:] != (*self._size, 3)
            or frames.dtype not in (np.uint8, np.uint16)
        ):
            raise InputError(
                f"frames are {frames.dtype} {frames.shape}; give uint8 (or uint16) "
                f"[F, {self._size[0]}, {self._size[1]}, 3]"
            )
        return self._joined(self.pieces(frames))

    def flush(self) -> np.ndarray:
        """Ends the clip.

        Returns:
          [k, scale H, scale W, 3]: the frames that were held back.

        Raises:
          RunError: the network produced values that are not finite.
        """
        rest = self._joined(self.pieces(None))
        self._begin()
        return rest

    def pieces(self, frames: np.ndarray | None) -> Iterator[np.ndarray]:
        """Yields the frames of `step` chunk by chunk; None gives those of `flush`, but ends the session."""
        ended = frames is None
        if frames is not None:
            self._dtype = frames.dtype
            self._frames.add(frames[self._to_drop :])
            self._to_drop = max(0, self._to_drop - len(frames))
        self._encode(ended=ended)
        self._denoise(ended=ended)
        yield from self._decode(ended=ended)

    def _joined(self, pieces: Iterable[np.ndarray]) -> np.ndarray:
        height, width = self._canvas.target
        return np.concatenate([*pieces, np.zeros((0, height, width, 3), self._dtype)])

    def _encode(self, *, ended: bool) -> None:
        """Encodes whole chunks; a short last one is padded."""
        size = self._encode_size
        while (waiting := self._frames.stop - self._hint.stop) >= size or (ended and waiting > 0):
            first = self._hint.stop
            piece = self._frames.part(first, min(first + size, self._frames.stop))
            filled = fill_piece(piece, size, at_end=True)
            params = self._autoencoder
            latents, _ = encode_chunk(
                self._model, self._canvas, params, filled, None, self._key, np.int32(first)
            )
            latents.block_until_ready()  # otherwise pieces would queue up, and the time left would be wrong
            self._hint.add(latents[None, : len(piece)])
            self._on_progress("encode", self._hint.stop)

    def _denoise(self, *, ended: bool) -> None:
        """Denoises complete windows; each determines the frames up to the middle of the next overlap."""
        length = self._settings.window
        overlap = length // 2
        while self._hint.stop > self._window + LAST_WINDOW_STRETCH * length:
            following = self._window + length - overlap
            self._denoise_window(self._window + length, following + overlap // 2)
            self._window = following
            self._hint.drop(following)
        if ended and self._hint.stop > self._latents.stop:
            self._denoise_window(self._hint.stop, self._hint.stop)

    def _denoise_window(self, stop: int, decided: int) -> None:
        clean = self._pipeline.denoiser.sample(
            self._hint.part(self._window, stop),
            self._contexts,
            self._settings,
            self._key,
            first_latent=jnp.int32(self._window),
        )
        self._latents.add(clean[:, self._latents.stop - self._window : decided - self._window])
        self._on_progress("sample", self._latents.stop)

    def _decode(self, *, ended: bool) -> Iterator[np.ndarray]:
        """Decodes the chunks whose latents are known, and would be the same in a longer clip."""
        while (chunk := self._next_chunk(ended=ended)) is not None:
            (start, stop), offset = chunk.frames, self._latents.start
            yield self._pipeline.coder.decode_piece(
                self._latents.part(offset, self._latents.stop),
                moved(chunk, -offset),
                self._frames.part(start, stop),
                self._canvas,
                self._finish,
            )
            self._chunk += 1
            self._frames.drop(stop)
            # If the clip's end shifts the last chunk back, that chunk needs one more overlap before this one.
            self._latents.drop(chunk.latents[0] - self._settings.decode_overlap)
            self._on_progress("decode", stop)

    def _next_chunk(self, *, ended: bool) -> Chunk | None:
        """The next chunk of the clip; None if it is not known yet, or there is none."""
        known = self._latents.stop
        skipped = max(0, self._chunk - _AT_ONCE + 1)  # chunks repeat, so early ones need not be computed
        number, shift = self._chunk - skipped, skipped * self._chunk_size
        now = self._chunks(known - shift)
        if number >= len(now):
            return None
        if not ended:
            longer = self._chunks(known - shift + 2 * _AT_ONCE * self._chunk_size)
            if now[number] != longer[number]:
                return None
        return moved(now[number], shift)

    def _chunks(self, num_frames: int) -> tuple[Chunk, ...]:
        return self._model.decode_chunks(num_frames, self._settings.decode_overlap)

    @cached_property
    def _chunk_size(self) -> int:
        start, stop = self._chunks(1000)[0].frames
        return stop - start

    @cached_property
    def _encode_size(self) -> int:
        return self._model.encode_chunks(1000)[0]

    @cached_property
    def _autoencoder(self) -> dict:
        return {name: self._pipeline.params[name] for name in self._model.autoencoder_components}


class _Buffer:
    """Consecutive frames or latents of a clip, from which the oldest are dropped.

    Attributes:
      start, stop: range [start, stop) of positions in the clip that the buffer holds.
    """

    def __init__(self, start: int = 0, axis: int = 0):
        self.parts: list = []
        self.start = self.stop = start
        self._axis = axis

    def add(self, part: np.ndarray | jax.Array) -> None:
        """Appends the next frames or latents."""
        if part.shape[self._axis]:
            self.parts.append(part)
            self.stop += part.shape[self._axis]

    def part(self, start: int, stop: int):
        """The frames or latents at positions [start, stop)."""
        if len(self.parts) > 1:
            join = np.concatenate if isinstance(self.parts[0], np.ndarray) else jnp.concatenate
            self.parts = [join(self.parts, axis=self._axis)]
        where = slice(start - self.start, stop - self.start)
        return self.parts[0][where] if self._axis == 0 else self.parts[0][:, where]

    def drop(self, position: int) -> None:
        """Drops everything before a position."""
        if position > self.start:
            rest = self.part(position, self.stop)
            self.parts = [rest] if rest.shape[self._axis] else []
            self.start = position
