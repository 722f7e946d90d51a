"""Prepared examples as VAE latents and text embeddings, so that training needs neither encoder."""

import hashlib
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.checkpoints.directory import checkpoint_path, load_component, read_config
from star_jax.data.config import DataConfig
from star_jax.data.prepare.plan import PrepareConfig
from star_jax.data.prepare.read import Example, ExampleShape
from star_jax.data.prepare.shards import Encoder
from star_jax.errors import InputError
from star_jax.models.architectures import build_model
from star_jax.models.video_model import VideoModel

# Frames per call of the encoder; each frame is encoded on its own, and this bounds the activations.
_FRAMES_PER_CALL = 4


def latent_encoder(config: PrepareConfig, checkpoint: str | os.PathLike) -> Encoder:
    """Stores posteriors (mean and log-variance, unscaled) of both clips, and the caption's embedding.

    Low-resolution clips are first enlarged to the ground truth's size (bilinearly), like the network's hint. The
    VAE computes in float32; everything is stored as float16.

    Args:
      config: the dataset to prepare.
      checkpoint: a checkpoint directory with the autoencoder and the text encoder.

    Raises:
      InputError: the checkpoint does not exist or has no text encoder, or the VAE cannot encode such clips.
    """
    model = build_model(read_config(checkpoint))  # in float32
    data = config.data
    _check(model, checkpoint, data)
    shape = ExampleShape(
        data.num_frames,
        data.height,
        data.width,
        data.make_recipe().scale,
        config.num_degradations,
        latents=True,
        spatial_factor=model.size_rule.pixels_per_latent,
        latent_channels=model.latent_channels,
        text_shape=model.context_shape,
    )
    params = {
        name: jax.device_put(load_component(checkpoint, name, model.abstract(name)))
        for name in (*model.autoencoder_components, *model.text_components)
    }
    tokenizer, size = model.load_tokenizer(checkpoint_path(checkpoint)), (data.height, data.width)

    def encode(truth: np.ndarray, lows: list[np.ndarray], text: str) -> Example:
        mean, logvar = _encode_clip(model, params, truth, size)
        low_means, low_logvars = zip(*(_encode_clip(model, params, low, size) for low in lows), strict=True)
        return {
            "text": text,
            "gt_mean": mean,
            "gt_logvar": logvar,
            "lq_mean": np.stack(low_means),
            "lq_logvar": np.stack(low_logvars),
            "text_embedding": np.asarray(_embed(model, params, model.tokenize(tokenizer, [text]))),
        }

    return Encoder(shape, encode, _sha256(params))


def _check(model: VideoModel, checkpoint: str | os.PathLike, data: DataConfig) -> None:
    """Raises: InputError: the model cannot encode such clips beforehand."""
    if not model.has_text:
        raise InputError(
            f"{checkpoint} (preset {model.config.preset!r}) has no text encoder; give a checkpoint that has one"
        )
    if model.size_rule.frames_per_latent > 1:
        raise InputError(
            f"{checkpoint} (preset {model.config.preset!r}) encodes {model.size_rule.frames_per_latent} frames "
            "together; prepare clips for this model, not latents"
        )
    factor = model.size_rule.pixels_per_latent
    if data.height % factor or data.width % factor:
        raise InputError(
            f"data.height x data.width is {data.height}x{data.width}; give multiples of {factor}"
        )


def _encode_clip(
    model: VideoModel, params: dict, frames: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes uint8 [F, h, w, 3], enlarged to `size`, to a mean and a log-variance, float16 [F, H/8, W/8, C]."""
    length = min(_FRAMES_PER_CALL, len(frames))
    moments = []
    for start in range(0, len(frames), length):
        piece = frames[start : start + length]
        filled = np.pad(piece, ((0, length - len(piece)), (0, 0), (0, 0), (0, 0)), mode="edge")
        moments.append([np.asarray(part)[: len(piece)] for part in _encode(model, params, filled, size)])
    mean, logvar = (np.concatenate(parts) for parts in zip(*moments, strict=True))
    return mean, logvar


@partial(jax.jit, static_argnames=("model", "size"))
def _encode(
    model: VideoModel, params: dict, frames: jax.Array, size: tuple[int, int]
) -> tuple[jax.Array, jax.Array]:
    posterior, _ = model.encode(params, model.enlarge(frames, size)[None])
    return posterior.mean[0].astype(jnp.float16), posterior.logvar[0].astype(jnp.float16)


@partial(jax.jit, static_argnames="model")
def _embed(model: VideoModel, params: dict, input_ids: jax.Array) -> jax.Array:
    return model.encode_text(params, input_ids)[0].astype(jnp.float16)


def _sha256(params: dict) -> str:
    """SHA-256 of all weights, so that one dataset never holds latents of two autoencoders."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()
