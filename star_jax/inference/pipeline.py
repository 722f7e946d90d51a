"""StarPipeline turns low-resolution frames into high-resolution frames.

encode (bilinear enlargement, padding, VAE) -> sample (the network sees the encoded input) -> decode (VAE, crop,
colour fix). Frames come and go in the chunks of the model's VAE, so that only the latents of a long clip are held
in memory.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.checkpoints.directory import check_components, checkpoint_path, load_component, read_config
from star_jax.config import ArchitectureConfig
from star_jax.diffusion.noise import noise_key
from star_jax.diffusion.windows import LAST_WINDOW_STRETCH
from star_jax.errors import InputError
from star_jax.files import parse_bytes
from star_jax.inference.coding import ClipCoder, ReadPieces
from star_jax.inference.denoising import ClipDenoiser
from star_jax.inference.memory import plan_memory
from star_jax.inference.pieces import Canvas
from star_jax.inference.resume import NOTHING_KEPT, Kept
from star_jax.inference.settings import UpscaleSettings
from star_jax.inference.streaming import StreamSession, takes_frames_as_they_come
from star_jax.models.architectures import build_model
from star_jax.models.video_model import VideoModel
from star_jax.ops.attention import AttentionKernels

# (stage, done, total): stages are "encode" (frames), "sample" (network evaluations), "decode" (frames).
OnProgress = Callable[[str, int, int], None]


def _no_progress(stage: str, done: int, total: int) -> None:
    del stage, done, total


class StarPipeline:
    """A loaded model; calls with the same shapes share compiled programs, and so do pipelines of equal models."""

    def __init__(self, model: VideoModel, params: dict[str, Any], tokenizer: Any | None):
        """Assembles a pipeline; `from_pretrained` loads one.

        Args:
          model: the model.
          params: tree of weights of each component.
          tokenizer: None for a model without text.
        """
        self.model, self.params, self.tokenizer = model, params, tokenizer

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike,
        *,
        dtype: jnp.dtype | str = "auto",
        attention: str = "auto",
        vae_dtype: str | tuple[jnp.dtype, jnp.dtype] = "auto",
    ) -> "StarPipeline":
        """Loads a checkpoint directory (see `star-jax convert`).

        Args:
          directory: directory made by `star-jax convert`.
          dtype: `float32`, `bfloat16`, `float16`, or `auto`: bfloat16 on TPUs and GPUs, float32 on a CPU.
          attention: kernel of every attention layer; see `star_jax.ops.attention`.
          vae_dtype: `float32`, `bfloat16`, `float16`, or `auto`: float32, but decoding on a GPU is in float16.

        Raises:
          InputError: the directory does not exist or is not a checkpoint, or a component is missing or has other
            sizes.
        """
        kernels = AttentionKernels.all(attention)
        model = build_model(read_config(directory), dtype=dtype, kernels=kernels, vae_dtype=vae_dtype)
        check_components(directory, model.components)
        params = {
            name: jax.device_put(load_component(directory, name, model.abstract(name)))
            for name in model.components
        }
        return cls(model, params, model.load_tokenizer(checkpoint_path(directory)))

    @property
    def config(self) -> ArchitectureConfig:
        """The model's sizes."""
        return self.model.config

    @property
    def coder(self) -> ClipCoder:
        """The autoencoder."""
        return ClipCoder(self.model, self.params)

    @property
    def denoiser(self) -> ClipDenoiser:
        """The networks that denoise."""
        return ClipDenoiser(self.model, self.params, self.tokenizer)

    def __call__(
        self,
        frames: np.ndarray,
        prompt: str = "",
        *,
        max_memory: int | str | None = None,
        on_progress: OnProgress = _no_progress,
        **settings: Any,
    ) -> np.ndarray:
        """Upscales a clip held in memory, in tiles and windows that fit the device.

        Args:
          frames: RGB frames [F, H, W, 3], uint8, or uint16 with the full range.
          prompt: description of the clip.
          max_memory: largest amount of memory to use, in bytes or as "12GiB"; by default all that the device has.
          on_progress: called with (stage, done, total).
          **settings: see `UpscaleSettings`; a checkpoint may have other defaults.

        Returns:
          [F, scale H, scale W, 3] of the same dtype.

        Raises:
          InputError: the frames have another shape or dtype, a setting is out of range, or there is too little
            memory.
          RunError: the network produced values that are not finite.
        """
        if (
            frames.ndim != 4
            or frames.shape[-1] != 3
            or frames.dtype not in (np.uint8, np.uint16)
            or 0 in frames.shape
        ):
            raise InputError(
                f"frames are {frames.dtype} {frames.shape}; give non-empty uint8 (or uint16) [F, H, W, 3]"
            )

        def read(size: int) -> Iterator[np.ndarray]:
            return (frames[start : start + size] for start in range(0, len(frames), size))

        plan = plan_memory(
            self.model,
            self._chosen(prompt, settings),
            len(frames),
            frames.shape[1:3],
            budget=_bytes(max_memory),
        )
        pieces = self.stream(read, len(frames), frames.shape[1:3], plan.settings, on_progress=on_progress)
        return np.concatenate(list(pieces))

    def stream(
        self,
        read: ReadPieces,
        num_frames: int,
        size: tuple[int, int],
        settings: UpscaleSettings,
        *,
        on_progress: OnProgress = _no_progress,
        kept: Kept = NOTHING_KEPT,
        skip: int = 0,
        read_colors: ReadPieces | None = None,
    ) -> Iterator[np.ndarray]:
        """Upscales a clip that is read, and returned, in pieces.

        Args:
          read: reads the clip from its start in pieces of the given number of frames; called twice, but only once
            for a one-step model.
          num_frames: number of the clip's frames.
          size: (height, width) of the clip's frames.
          settings: see `UpscaleSettings`.
          on_progress: called with (stage, done, total).
          kept: store for latents, which a later call with the same arguments uses.
          skip: number of frames at the start that an earlier call has yielded, and that are not yielded again.
          read_colors: reads the clip, of any size, that the result's colours come from; None takes the input.

        Yields:
          [f, scale H, scale W, 3] of the dtype read, one chunk of the VAE after another.

        Raises:
          InputError: there is a prompt but no text encoder, or tiles are too small.
          RunError: the network produced values that are not finite.
        """
        settings.check_tiles(self.model.size_rule)
        latents: Any = kept.load("latents")
        if latents is None and takes_frames_as_they_come(self.model, settings):
            yield from self._stream_once(read, num_frames, size, settings, on_progress, skip)
            return
        canvas = self.canvas(size, settings)
        if latents is None:
            latents = self.latents(read, num_frames, size, settings, on_progress=on_progress, kept=kept)
        else:
            on_progress("encode", num_frames, num_frames)
            on_progress("sample", 1, 1)
        latents, fidelity = jnp.asarray(latents), settings.light_fidelity(self.model)
        decoded = (
            self.coder.decode(latents, read_colors or read, num_frames, canvas, settings, skip)
            if fidelity is None
            else self.coder.decode_light(latents, read, num_frames, canvas, settings, fidelity, skip)
        )
        for done, frames in decoded:
            yield frames
            del frames
            on_progress("decode", done, num_frames)

    def latents(
        self,
        read: ReadPieces,
        num_frames: int,
        size: tuple[int, int],
        settings: UpscaleSettings,
        *,
        on_progress: OnProgress = _no_progress,
        kept: Kept = NOTHING_KEPT,
    ) -> jax.Array:
        """Encodes and denoises a clip to latents for the decoder, float32 [1, F, h, w, C]; see `stream`."""
        canvas, key = self.canvas(size, settings), noise_key(settings.seed)
        contexts = self.denoiser.encode_prompts(settings)
        hint = self._encode_clip(
            read, num_frames, canvas, key, partial(on_progress, "encode"), kept, settings.window
        )
        latents = self.denoiser.sample(
            hint, contexts, settings, key, partial(on_progress, "sample"), kept, num_frames=num_frames
        )
        del hint
        kept.save("latents", np.asarray(latents))
        kept.drop("hint")
        return latents

    def _stream_once(
        self,
        read: ReadPieces,
        num_frames: int,
        size: tuple[int, int],
        settings: UpscaleSettings,
        on_progress: OnProgress,
        skip: int,
    ) -> Iterator[np.ndarray]:
        """`stream` for a one-step model: every stage works as soon as it can, and the clip is read only once."""
        session = StreamSession(
            self, size, settings, lambda stage, done: on_progress(stage, done, num_frames)
        )
        if skip:
            session.skip(skip, num_frames)
        for piece in read(max(self.model.encode_chunks(num_frames))):
            yield from session.pieces(piece)
        yield from session.pieces(None)

    def canvas(self, size: tuple[int, int], settings: UpscaleSettings) -> Canvas:
        """Layout of frames of (height, width) `size` for the autoencoder."""
        rule, target = self.model.size_rule, settings.target_size(*size)
        padding = settings.padding_of(rule, *target)
        return Canvas(
            target,
            padding,
            settings.padding_value,
            settings.vae_tiles_of(rule, rule.latent_size(*padding.padded_size(*target))),
        )

    def _encode_clip(
        self,
        read: ReadPieces,
        num_frames: int,
        canvas: Canvas,
        key: jax.Array,
        progress: Callable[[int, int], None],
        kept: Kept,
        window: int,
    ) -> jax.Array:
        """The low-resolution latents [1, F, h, w, C] of a clip, or of its windows one after the other."""
        if (array := kept.load("hint")) is not None:
            progress(num_frames, num_frames)
            return jnp.asarray(array)
        latents, finished = [], 0
        for done, part in self.coder.encode(read, num_frames, canvas, key, window):
            # The device works on this piece while the next is read; without waiting, all pieces would queue up.
            latents.append(part)
            jax.block_until_ready(latents[-2:-1])
            if finished:
                progress(finished, num_frames)
            finished = done
        hint = jnp.concatenate(latents)[None].block_until_ready()
        progress(num_frames, num_frames)
        kept.save("hint", np.asarray(hint))
        return hint

    def stream_session(
        self,
        size: tuple[int, int],
        prompt: str = "",
        *,
        max_memory: int | str | None = None,
        **settings: Any,
    ) -> StreamSession:
        """Makes a session that upscales frames as they come, with a one-step model.

            session = pipeline.stream_session((180, 320), window=8)
            for frames in camera:
                show(session.step(frames))
            show(session.flush())

        Its frames are those that the pipeline gives for the whole clip with the same settings. `window` determines
        how many frames are held back.

        Args:
          size: (height, width) of the frames.
          prompt, max_memory, settings: see `__call__`.

        Raises:
          InputError: the model takes several steps, a setting is out of range, or there is too little memory.
        """
        chosen = self._chosen(prompt, settings)
        most = int(LAST_WINDOW_STRETCH * chosen.window)
        plan = plan_memory(self.model, chosen, most, size, budget=_bytes(max_memory))
        return StreamSession(self, size, plan.settings)

    def _chosen(self, prompt: str, settings: dict[str, Any]) -> UpscaleSettings:
        return UpscaleSettings(prompt=prompt, **{**dataclasses.asdict(self.config.sampling), **settings})


def _bytes(max_memory: int | str | None) -> int | None:
    return parse_bytes(max_memory, "max_memory") if isinstance(max_memory, str) else max_memory
