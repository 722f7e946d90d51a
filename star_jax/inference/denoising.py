"""Denoises whole clips: encodes prompts, and runs the sampler over a clip's latents."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from star_jax.diffusion.guidance import VelocityFn, make_conditioning
from star_jax.diffusion.sampler import sample
from star_jax.diffusion.tiles import TiledVelocity
from star_jax.diffusion.windows import join_fresh_windows
from star_jax.errors import InputError
from star_jax.inference.coding import require_finite
from star_jax.inference.memory import latent_windows
from star_jax.inference.resume import NOTHING_KEPT, Kept, keep_state, kept_state
from star_jax.inference.settings import UpscaleSettings
from star_jax.models.video_model import VideoModel

# Text embeddings [1, L, D] of the prompt and, if there is an unconditional branch, of the negative prompt.
Contexts = tuple[jax.Array, jax.Array | None]


@dataclass(frozen=True)
class ClipDenoiser:
    """Denoises the latents of clips with a model's networks.

    Attributes:
      model: the model.
      params: tree of weights of each component.
      tokenizer: None for a model without text.
    """

    model: VideoModel
    params: dict[str, Any]
    tokenizer: Any | None

    def encode_prompts(self, settings: UpscaleSettings) -> Contexts:
        """Text embeddings [1, L, D] of the prompt and of the negative prompt.

        A model without a text encoder has a null context and no unconditional branch.

        Raises:
          InputError: there is a prompt, but the model has no text encoder.
        """
        model = self.model
        if not model.has_text:
            if settings.prompt:
                raise InputError(
                    f"a prompt was given, but preset {model.config.preset!r} has no text encoder; leave it out"
                )
            return model.empty_context(1), None
        prompts = [settings.prompt + settings.positive_prompt, settings.negative_prompt]
        params = {name: self.params[name] for name in model.text_components}
        embeddings = _encode_text(model, params, model.tokenize(self.tokenizer, prompts))
        return embeddings[:1], model.unconditional_context(embeddings[1:])

    def sample(
        self,
        hint: jax.Array,
        contexts: Contexts,
        settings: UpscaleSettings,
        key: jax.Array,
        progress: Callable[[int, int], None] | None = None,
        kept: Kept = NOTHING_KEPT,
        *,
        num_frames: int | None = None,
        first_latent: int | jax.Array = 0,
    ) -> jax.Array:
        """Denoises a clip.

        With `progress`, each call of the compiled program evaluates the network once, and the sampler's state is
        kept after each call; without it, one call runs the whole sampler.

        Args:
          hint: low-resolution latents [B, F, h, w, C]. If the model treats windows as separate clips, these are the
            latents of all windows, one window after the other.
          contexts: see `encode_prompts`.
          settings: see `UpscaleSettings`.
          key: key of all noise.
          progress: called with (evaluations done, total).
          kept: store of the sampler's state.
          num_frames: number of the clip's frames, from which the windows follow; None means a single window.
          first_latent: position of the first latent in the clip, by which the initial noise is keyed.

        Returns:
          high-resolution latents, float32 [B, F, h, w, C].

        Raises:
          RunError: the latents are not finite.
        """
        model = self.model
        table = model.solver_table(
            solver=settings.solver,
            spacing=settings.resolved_spacing,
            num_inference_steps=settings.num_inference_steps,
        )
        params = {name: self.params[name] for name in model.network_components}
        text, negative = (None if c is None else _condition(model, params, c) for c in contexts)
        conditioning = make_conditioning(
            text,
            hint,
            negative,
            guidance_scale=model.guidance_scales(settings.guidance_scale, table),
            guidance_rescale=model.config.diffusion.guidance_rescale,
        )
        height, width = hint.shape[2:4]
        tiles = settings.tiles_of(model.size_rule, (height, width))
        velocity: VelocityFn = model
        if len(tiles) > 1 or not settings.batch_guidance:
            velocity = TiledVelocity(model, tiles, settings.batch_guidance)
        rule = model.size_rule
        windows = latent_windows(rule, num_frames or rule.num_frames(hint.shape[1]), settings.window)
        latents = sample(
            velocity,
            params,
            model.start(join_fresh_windows(hint, windows) if rule.starts_anew else hint, key, first_latent),
            table,
            conditioning,
            key,
            windows=windows,
            fresh=rule.starts_anew,
            rows_per_call=1 if progress else None,
            progress=progress,
            resume=kept_state(kept, len(table)),
            on_state=partial(keep_state, kept),
        )
        keep_state(kept, len(table), None)
        require_finite(jnp.isfinite(latents).all(), "sampling")
        return latents[:, : windows[-1][1]]


@partial(jax.jit, static_argnames="model")
def _encode_text(model: VideoModel, params: dict[str, Any], input_ids: jax.Array) -> jax.Array:
    return model.encode_text(params, input_ids)


@partial(jax.jit, static_argnames="model")
def _condition(model: VideoModel, params: dict[str, Any], text: jax.Array) -> Any:
    return model.condition(params, text)
