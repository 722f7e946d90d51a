"""Operations of a model's parts and of the whole pipeline, counted by tracing them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from star_jax.inference.memory import encoded_clips, latent_windows
from star_jax.inference.settings import UpscaleSettings
from star_jax.models.light_decoder.decoder import LOW_FACTOR
from star_jax.models.video_model import Carry, Params, VideoModel
from star_jax.ops.flops import FlopCount, count_flops, count_flops_and_result

Shape = jax.ShapeDtypeStruct


def velocity_flops(
    model: VideoModel, latent_shape: tuple[int, int, int], *, batch: int = 1, projected: bool = False
) -> FlopCount:
    """Operations of one evaluation of the network on latents [batch, *latent_shape, C].

    Args:
      model: the model.
      latent_shape: (frames, height, width).
      batch: number of clips, or of branches of guidance.
      projected: whether the network gets the result of `VideoModel.condition`, as in the pipeline, or embeddings.
    """
    params = model.abstract_params(model.network_components)
    text = Shape((batch, *model.context_shape), model.dtype)
    if projected:
        text = jax.eval_shape(model.condition, params, text)
    latents = Shape((batch, *latent_shape, model.latent_channels), jnp.float32)
    return count_flops(model.velocity, params, latents, Shape((batch,), jnp.int32), text, latents)


def condition_flops(model: VideoModel, *, batch: int = 1) -> FlopCount:
    """Operations on the text that are done once for all steps."""
    params = model.abstract_params(model.network_components)
    return count_flops(model.condition, params, Shape((batch, *model.context_shape), model.dtype))


def text_flops(model: VideoModel, *, batch: int = 1) -> FlopCount:
    """Operations of embedding `batch` prompts; zero for a model without text."""
    if not model.has_text:
        return FlopCount()
    params = model.abstract_params(model.text_components)
    return count_flops(model.encode_text, params, Shape((batch, model.context_shape[0]), jnp.int32))


def encode_flops(model: VideoModel, num_frames: int, height: int, width: int) -> FlopCount:
    """Operations of encoding frames [num_frames, height, width, 3] in chunks, without padding of the last chunk."""
    sizes, left = [], model.size_rule.padded_frames(num_frames)
    for size in model.encode_chunks(num_frames):
        sizes.append(min(size, left))
        left -= sizes[-1]
    chunks = [Shape((1, size, height, width, 3), jnp.float32) for size in sizes]
    return _in_chunks(model.encode, model, chunks)


def decode_flops(model: VideoModel, num_frames: int, height: int, width: int, overlap: int = 0) -> FlopCount:
    """Operations of decoding to frames [num_frames, height, width, 3] in chunks."""
    rule = model.size_rule
    chunks = [
        Shape((1, stop - start, *rule.latent_size(height, width), model.latent_channels), jnp.float32)
        for start, stop in (
            chunk.latents for chunk in model.decode_chunks(rule.padded_frames(num_frames), overlap)
        )
    ]
    return _in_chunks(model.decode, model, chunks)


def decode_light_flops(model: VideoModel, num_frames: int, height: int, width: int) -> FlopCount:
    """Operations of decoding to frames [num_frames, height, width, 3] with the light decoder."""
    latents = Shape((1, 1, *model.size_rule.latent_size(height, width), model.latent_channels), jnp.float32)
    low = Shape((1, 1, height // LOW_FACTOR, width // LOW_FACTOR, 3), jnp.float32)
    params = model.abstract_params(model.light_components)

    def decode(params: Params, latents: jax.Array, low: jax.Array) -> tuple[jax.Array, Carry]:
        return model.decode_light(params, latents, low, 0.0)

    return count_flops(decode, params, latents, low) * num_frames


def pipeline_flops(
    model: VideoModel, num_frames: int, height: int, width: int, settings: UpscaleSettings
) -> FlopCount:
    """Operations of upscaling a clip to (padded) frames [num_frames, height, width, 3], with window overlaps."""
    table = model.solver_table(
        solver=settings.solver,
        spacing=settings.resolved_spacing,
        num_inference_steps=settings.num_inference_steps,
    )
    branches = 1 + model.is_guided(settings.guidance_scale)
    count = FlopCount()
    for start, stop in encoded_clips(model.size_rule, num_frames, settings.window):
        count += encode_flops(model, stop - start, height, width)
    if settings.light_fidelity(model) is None:
        count += decode_flops(model, num_frames, height, width, settings.decode_overlap)
    else:
        count += decode_light_flops(model, num_frames, height, width)
    count += text_flops(model, batch=2) + condition_flops(model, batch=branches)
    lengths = [stop - start for start, stop in latent_windows(model.size_rule, num_frames, settings.window)]
    for length in set(lengths):
        latent_shape = (length, *model.size_rule.latent_size(height, width))
        step = velocity_flops(model, latent_shape, batch=branches, projected=True)
        count += step * (lengths.count(length) * len(table))
    return count


def _in_chunks(
    fn: Callable[[Params, jax.Array, Any], tuple[Any, Any]], model: VideoModel, chunks: list[Shape]
) -> FlopCount:
    """Operations of an encoder or decoder on consecutive chunks; it is traced once per shape of chunk and carry."""
    params = model.abstract_params(model.autoencoder_components)
    count, carry, known = FlopCount(), None, {}
    for chunk in chunks:
        key = chunk.shape, str(carry)
        if key not in known:
            known[key] = count_flops_and_result(fn, params, chunk, carry)
        of_chunk, (_, carry) = known[key]
        count += of_chunk
    return count
