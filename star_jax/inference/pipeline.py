"""StarPipeline: low-resolution frames in, high-resolution frames out.

encode (bilinear enlargement, padding, VAE) -> sample (the ControlNet sees the encoded input) -> decode (VAE in
groups of frames, crop, colour fix). Frames come and go in small pieces: of a long clip, only the latents are held
in memory.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from star_jax.checkpoints.directory import TOKENIZER_DIR, check_components, load_component, read_config
from star_jax.config import StarConfig
from star_jax.diffusion.guidance import make_conditioning
from star_jax.diffusion.noise import noise_key
from star_jax.diffusion.sampler import noised_latents, sample
from star_jax.diffusion.schedule import NoiseSchedule
from star_jax.diffusion.solvers import solver_table
from star_jax.diffusion.tiles import TiledVelocity
from star_jax.diffusion.windows import make_windows
from star_jax.errors import InputError, RunError
from star_jax.files import parse_bytes
from star_jax.inference.memory import plan_memory
from star_jax.inference.pieces import PIECE, decode_group, decode_piece, encode_piece, fill_piece
from star_jax.inference.settings import UpscaleSettings
from star_jax.models.clip.tokenizer import load_tokenizer, tokenize
from star_jax.models.components import abstract_component, component_names
from star_jax.models.i2vgenxl.velocity import project_text, star_velocity
from star_jax.ops.attention import AttentionKernels
from star_jax.video.geometry import Padding

# (stage, done, total): stages are "encode" (frames), "sample" (network evaluations), "decode" (frames).
OnProgress = Callable[[str, int, int], None]
# (frames per piece) -> pieces uint8 [f, H, W, 3]; called once to encode and once more for the colour fix.
ReadPieces = Callable[[int], Iterable[np.ndarray]]


def _no_progress(stage: str, done: int, total: int) -> None:
    del stage, done, total


class StarPipeline:
    """A loaded model; calls with the same shapes share compiled programs."""

    def __init__(
        self,
        config: StarConfig,
        params: dict[str, Any],
        tokenizer: Any | None,
        *,
        dtype: jnp.dtype | str = "auto",
        kernels: AttentionKernels = AttentionKernels(),
    ):
        """Puts a pipeline together; see `from_pretrained` for loading one.

        Args:
          config: sizes.
          params: trees by component name.
          tokenizer: None where the configuration has no text encoder.
          dtype: of the UNet, the ControlNet and the text encoder; the VAE runs in float32.
          kernels: attention kernel of each site.
        """
        self.config, self.params, self.tokenizer = config, params, tokenizer
        self.dtype = resolve_dtype(dtype)
        self._factor = config.vae.spatial_factor
        self.schedule = NoiseSchedule.from_config(config.diffusion)
        graphs = {name: _abstract(config, name, self.dtype, kernels)[0] for name in component_names(config)}
        # Made once: a jitted program is found again by the identity of its function.
        self._encode = jax.jit(
            partial(encode_piece, graphs["vae"], config.vae.scaling_factor),
            static_argnames=("target", "padding", "padding_value", "tiles"),
        )
        self._decode = jax.jit(
            partial(
                decode_piece,
                graphs["vae"],
                config.vae.scaling_factor,
                spatial_factor=config.vae.spatial_factor,
            ),
            static_argnames=("padding", "color_fix", "tiles", "strength"),
        )
        self._velocity = partial(star_velocity, graphs["unet"], graphs["controlnet"])
        self._project_text = jax.jit(partial(project_text, graphs["unet"], graphs["controlnet"]))
        if "text_encoder" in graphs:
            self._encode_text = jax.jit(partial(_encode_text, graphs["text_encoder"]))

    @classmethod
    def from_pretrained(
        cls, directory: str | os.PathLike, *, dtype: jnp.dtype | str = "auto", attention: str = "auto"
    ) -> "StarPipeline":
        """Loads a checkpoint directory (see `star-jax convert`).

        Args:
          directory: made by `star-jax convert`.
          dtype: `float32`, `bfloat16`, `float16`, or `auto`: bfloat16 on TPUs and GPUs, float32 on a CPU.
          attention: kernel for every site; see `star_jax.ops.attention`.

        Raises:
          InputError: no such directory, not a checkpoint, a component missing or of other sizes.
        """
        config, dtype, kernels = read_config(directory), resolve_dtype(dtype), AttentionKernels.all(attention)
        check_components(directory, component_names(config))
        params = {}
        for name in component_names(config):
            _, abstract = _abstract(config, name, dtype, kernels)
            params[name] = jax.device_put(load_component(directory, name, abstract))
        tokenizer = None
        if config.text_encoder is not None:
            tokenizer = load_tokenizer(Path(directory) / TOKENIZER_DIR)
        return cls(config, params, tokenizer, dtype=dtype, kernels=kernels)

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
          frames: uint8 [F, H, W, 3] RGB.
          prompt: what the clip shows.
          max_memory: bytes, or such as "12GiB", to use at most; by default what the device has.
          on_progress: called with (stage, done, total).
          **settings: see `UpscaleSettings`; the checkpoint's own defaults come before those.

        Returns:
          uint8 [F, scale H, scale W, 3].

        Raises:
          InputError: frames of another shape or dtype, a setting out of range, or too little memory.
          RunError: the network produced non-finite numbers.
        """
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
            raise InputError(f"frames are {frames.dtype} {frames.shape}; expected uint8 [F, H, W, 3]")

        def read(size: int) -> Iterator[np.ndarray]:
            return (frames[start : start + size] for start in range(0, len(frames), size))

        plan = plan_memory(
            self.config,
            self.dtype,
            UpscaleSettings(prompt=prompt, **{**dataclasses.asdict(self.config.sampling), **settings}),
            len(frames),
            frames.shape[1:3],
            budget=parse_bytes(max_memory, "max_memory") if isinstance(max_memory, str) else max_memory,
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
    ) -> Iterator[np.ndarray]:
        """Upscales a clip that is read, and returned, in pieces.

        Args:
          read: reads the clip from its start in pieces of the given number of frames; called twice.
          num_frames: of the clip.
          size: (height, width) of its frames.
          settings: see `UpscaleSettings`.
          on_progress: called with (stage, done, total).

        Yields:
          uint8 [f, scale H, scale W, 3], PIECE frames or, at the end, fewer.

        Raises:
          InputError: a prompt for a model without text encoder.
          RunError: the network produced non-finite numbers.
        """
        contexts = self.encode_prompts(settings)
        target = settings.target_size(*size)
        padding = settings.padding_of(*target)
        key = noise_key(settings.seed)

        encoded, done = [], 0
        for piece in read(PIECE):
            latents = self._encode_padded(piece, key, done, target, padding, settings)
            encoded.append(latents.block_until_ready())  # else pieces would queue up, and progress run ahead
            done += len(piece)
            on_progress("encode", done, num_frames)
        hint = jnp.concatenate(encoded)[None]
        del encoded

        latents = self.sample(hint, contexts, settings, key, partial(on_progress, "sample"))
        del hint

        done = 0
        for piece in read(PIECE):
            frames, finite = self._decode_group(latents, piece, done, padding, settings)
            _require_finite(finite, "decoding")
            yield np.asarray(frames)
            done += len(piece)
            on_progress("decode", done, num_frames)

    def encode_prompts(self, settings: UpscaleSettings) -> tuple[jax.Array, jax.Array | None]:
        """Text embeddings [1, L, D] of the prompt and of the negative prompt.

        A model without text encoder has a null context, and no second branch to guide away from.

        Raises:
          InputError: a prompt for a model without text encoder.
        """
        if self.config.text_encoder is None:
            if settings.prompt:
                raise InputError(
                    f"a prompt was given, but preset {self.config.preset!r} has no text encoder; leave it out"
                )
            return jnp.zeros((1, 1, self.config.unet.cross_attention_dim), self.dtype), None
        prompts = [settings.prompt + settings.positive_prompt, settings.negative_prompt]
        length = self.config.text_encoder.max_position_embeddings
        embeddings = self._encode_text(
            self.params["text_encoder"], tokenize(self.tokenizer, prompts, max_length=length)
        )
        return embeddings[:1], embeddings[1:]

    def sample(
        self,
        hint: jax.Array,
        contexts: tuple[jax.Array, jax.Array | None],
        settings: UpscaleSettings,
        key: jax.Array,
        progress: Callable[[int, int], None] | None = None,
    ) -> jax.Array:
        """Denoises: low-resolution latents [B, F, h, w, 4] -> high-resolution latents, float32.

        With `progress`, one evaluation of the network per call of the compiled program; without it, all in one.

        Raises:
          RunError: non-finite latents.
        """
        table = solver_table(
            self.schedule,
            solver=settings.solver,
            spacing=settings.resolved_spacing,
            num_inference_steps=settings.num_inference_steps,
            start_timestep=self.config.diffusion.start_timestep,
        )
        params = {name: self.params[name] for name in ("unet", "controlnet")}
        text, negative = (None if c is None else self._project_text(params, c) for c in contexts)
        conditioning = make_conditioning(
            text,
            hint,
            negative,
            guidance_scale=settings.guidance_scale,
            guidance_rescale=self.config.diffusion.guidance_rescale,
        )
        start = self.config.diffusion.start_timestep
        velocity, tiles = self._velocity, settings.tiles_of(hint.shape[2:4], self._factor)
        if len(tiles) > 1 or not settings.batch_guidance:
            velocity = TiledVelocity(self._velocity, tiles, settings.batch_guidance)
        latents = sample(
            velocity,
            params,
            noised_latents(self.schedule, hint, key, start_timestep=start),
            table,
            conditioning,
            key,
            windows=make_windows(hint.shape[1], settings.window),
            rows_per_call=1 if progress else None,
            progress=progress,
        )
        _require_finite(jnp.isfinite(latents).all(), "sampling")
        return latents

    def _encode_padded(
        self,
        piece: np.ndarray,
        key: jax.Array,
        first_frame: int,
        target: tuple[int, int],
        padding: Padding,
        settings: UpscaleSettings,
    ) -> jax.Array:
        """Encodes a piece; a short last one is filled up, so that it needs no program of its own."""
        latent_size = tuple(side // self._factor for side in padding.padded_size(*target))
        latents = self._encode(
            self.params["vae"],
            fill_piece(piece, PIECE, at_end=True),
            key,
            np.int32(first_frame),
            target=target,
            padding=padding,
            padding_value=settings.padding_value,
            tiles=settings.vae_tiles_of(latent_size, self._factor),
        )
        return latents[: len(piece)]

    def _decode_group(
        self, latents: jax.Array, piece: np.ndarray, start: int, padding: Padding, settings: UpscaleSettings
    ) -> tuple[jax.Array, jax.Array]:
        """Decodes the frames of a piece that starts at frame `start`, and says whether they are finite."""
        overlap = settings.decode_overlap
        first, length, first_kept, kept = decode_group(latents.shape[1], start, len(piece), overlap)
        frames, finite = self._decode(
            self.params["vae"],
            latents[:, first : first + length],
            np.int32(first_kept),
            fill_piece(piece, kept, at_end=False),
            padding=padding,
            color_fix=settings.color_fix,
            strength=settings.strength,
            tiles=settings.vae_tiles_of(latents.shape[2:4], self._factor),
        )
        return frames[kept - len(piece) :], finite


def resolve_dtype(dtype: jnp.dtype | str) -> jnp.dtype:
    """`auto` is bfloat16 on TPUs and GPUs, float32 on a CPU.

    Raises:
      InputError: not a floating-point type that the networks run in.
    """
    if isinstance(dtype, str) and dtype == "auto":
        return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    try:
        resolved = jnp.dtype(dtype)
    except TypeError:  # no dtype of that name
        resolved = None
    if str(resolved) not in ("float32", "bfloat16", "float16"):
        raise InputError(f"dtype is {dtype}; choose one of auto, float32, bfloat16, float16")
    return resolved


def _abstract(config: StarConfig, name: str, dtype: jnp.dtype, kernels: AttentionKernels):
    """See `abstract_component`; the VAE always computes in float32, as the released system's does."""
    return abstract_component(
        config, name, dtype=jnp.dtype(jnp.float32) if name == "vae" else dtype, kernels=kernels
    )


def _encode_text(graphdef, params, input_ids):
    return nnx.merge(graphdef, params)(input_ids)


def _require_finite(finite: jax.Array, stage: str) -> None:
    if not bool(finite):
        raise RunError(
            f"{stage} produced numbers that are not finite; try --dtype float32, or convert the checkpoint again"
        )
