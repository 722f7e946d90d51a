"""The model at work on a training batch: its latents, its text, and frames decoded again."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from star_jax.data.config import DataConfig
from star_jax.diffusion.losses import decode_groups
from star_jax.models.lora import LORA, merge_lora
from star_jax.models.posterior import DiagonalGaussian
from star_jax.models.video_model import VideoModel
from star_jax.parallel.activations import split_columns
from star_jax.parallel.weights import gather_weights
from star_jax.train.sample_draws import sample_noise
from star_jax.train.state import merge_params

Tree = dict[str, Any]
Batch = dict[str, jax.Array]

# Frames that the encoder works on together where each is encoded on its own; this bounds the activations.
_ENCODE_FRAMES = 2


class StarNetworks:
    """What the loss and the validation ask of a model, given a batch of `StarBatches`.

    Activations are in the model's dtype, latents and frames that leave here in float32.
    """

    def __init__(self, model: VideoModel, data: DataConfig, decode_group: int, lora_scale: float = 1.0):
        """See the class.

        Args:
          model: built for training.
          data: sizes of the clips.
          decode_group: latents that are decoded together.
          lora_scale: factor of low-rank updates.
        """
        self.model, self.data, self.decode_group = model, data, decode_group
        self.lora_scale = lora_scale

    def cast_params(self, trainable: Tree, frozen: Tree) -> Tree:
        """See the function `cast_params`."""
        return cast_params(self.model, trainable, frozen, self.lora_scale)

    def velocity(self, params: Tree, *args: Any, dropout_key: jax.Array | None = None) -> jax.Array:
        """See `VideoModel.velocity`; params as `cast_params` returns them."""
        return self.model.velocity(params, *args, dropout_key=dropout_key)

    def encode(self, params: Tree, batch: Batch, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Latents of the ground truth and of the enlarged low resolution, float32 [B, F, h, w, C], scaled.

        Both are samples of the VAE's posterior, as in the released training.
        """
        latents = []
        for name in ("gt", "lq"):
            if name in batch:
                posterior = self.posterior(params, batch[name])
            else:
                moments = (batch[f"{name}_{part}"].astype(jnp.float32) for part in ("mean", "logvar"))
                posterior = DiagonalGaussian(*moments)
            noise = sample_noise(keys, f"posterior_{name}", posterior.mean.shape)
            latents.append(self.model.scaled(posterior.sample(noise)))
        gt, lq = latents
        return gt, lq

    def posterior(self, params: Tree, frames: jax.Array) -> DiagonalGaussian:
        """uint8 [B, F, h, w, 3], enlarged bilinearly (half-pixel centres) to the data's size, and encoded."""
        num_frames = frames.shape[1]
        frames = split_columns(frames)
        size = (self.data.height, self.data.width)
        if self.model.size_rule.frames_per_latent > 1:  # frames depend on each other: the whole clip at once
            piece = num_frames
        else:
            piece = max(n for n in range(1, _ENCODE_FRAMES + 1) if num_frames % n == 0)

        def encode(start: jax.Array) -> DiagonalGaussian:
            pixels = self.model.enlarge(jax.lax.dynamic_slice_in_dim(frames, start, piece, axis=1), size)
            return self.model.encode(params, pixels)[0]

        moments = jax.lax.map(encode, jnp.arange(0, num_frames, piece))

        return jax.tree.map(lambda x: rearrange(x, "pieces b f ... -> b (pieces f) ..."), moments)

    def decode(self, params: Tree, latents: jax.Array) -> jax.Array:
        """Frames [B, F, H, W, 3] float32 in about [-1, 1] of scaled latents, decoded as one group."""
        return self.model.decode(params, latents)[0].astype(jnp.float32)

    def decode_clip(self, params: Tree, latents: jax.Array) -> jax.Array:
        """All frames [B, F, H, W, 3] of scaled latents, group by group; frames of two groups are their mean."""
        starts, weights = decode_groups(latents.shape[1], self.decode_group)
        if len(starts) == 1:
            return self.decode(params, latents)
        length = weights.shape[1]

        def of_group(start: jax.Array) -> jax.Array:
            return self.decode(params, jax.lax.dynamic_slice_in_dim(latents, start, length, axis=1))

        groups = jax.lax.map(of_group, jnp.asarray(starts))
        groups = groups * (weights * latents.shape[1])[:, None, :, None, None, None]
        frames = jnp.zeros((len(latents), latents.shape[1], *groups.shape[3:]), jnp.float32)
        for start, group in zip(starts, groups, strict=True):
            frames = frames.at[:, start : start + length].add(group)
        return frames

    def context(self, params: Tree, batch: Batch) -> jax.Array:
        """Text embeddings [B, L, D]; the null context for a model that reads no text."""
        if "text_embedding" in batch:
            return batch["text_embedding"].astype(self.model.dtype)
        if "input_ids" in batch:
            return self.model.encode_text(params, batch["input_ids"])
        return self.model.empty_context(len(batch["index"]))


def cast_params(model: VideoModel, trainable: Tree, frozen: Tree, lora_scale: float = 1.0) -> Tree:
    """All weights by component, trained ones cast to the compute dtype, low-rank updates added.

    Args:
      model: the model.
      trainable: trained weights by component, or their low-rank updates as component `lora`.
      frozen: the other weights.
      lora_scale: factor of the updates.
    """
    params = {name: tree for name, tree in trainable.items() if name != LORA}
    params = merge_params(jax.tree.map(lambda x: x.astype(model.dtype), params), frozen)
    if LORA in trainable:
        params = merge_lora(params, trainable[LORA], lora_scale)
    # The VAE runs in loops over frames, each turn of which would gather its weights again.
    return params | {name: gather_weights(params[name]) for name in model.autoencoder_components}


@dataclass(frozen=True)
class CastVelocity:
    """The network as a `VelocityFn` of (trainable, frozen) weights; equal models share a sampler's programs."""

    model: VideoModel
    lora_scale: float = 1.0

    def __call__(self, params: tuple[Tree, Tree], *args: Any) -> jax.Array:
        return self.model.velocity(cast_params(self.model, *params, self.lora_scale), *args)
