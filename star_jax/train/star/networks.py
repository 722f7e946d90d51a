"""The model applied to a training batch: encodes clips and text, and decodes latents."""

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

# Frames per call of an encoder that encodes each frame by itself; this bounds the activations.
_ENCODE_FRAMES = 2


class StarNetworks:
    """The model's functions that the loss and the validation need, for a batch of `StarBatches`.

    Activations have the model's dtype; returned latents and frames are float32.
    """

    def __init__(self, model: VideoModel, data: DataConfig, decode_group: int, lora_scale: float = 1.0):
        """See the class.

        Args:
          model: built for training.
          data: sizes of the clips.
          decode_group: number of latents that are decoded together.
          lora_scale: factor of low-rank updates.
        """
        self.model, self.data, self.decode_group = model, data, decode_group
        self.lora_scale = lora_scale

    def cast_params(self, trainable: Tree, frozen: Tree) -> Tree:
        """See the function `cast_params`."""
        return cast_params(self.model, trainable, frozen, self.lora_scale)

    def velocity(self, params: Tree, *args: Any, dropout_key: jax.Array | None = None) -> jax.Array:
        """See `VideoModel.velocity`; `params` are those that `cast_params` returns."""
        return self.model.velocity(params, *args, dropout_key=dropout_key)

    def encode(self, params: Tree, batch: Batch, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Scaled latents of the ground truth and of the enlarged low resolution, float32 [B, F, h, w, C].

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
        """Encodes uint8 [B, F, h, w, 3], enlarged bilinearly (half-pixel centres) to the data's size."""
        num_frames = frames.shape[1]
        frames = split_columns(frames)
        size = (self.data.height, self.data.width)
        if self.model.size_rule.frames_per_latent > 1:  # frames depend on each other
            piece = num_frames
        else:
            piece = max(n for n in range(1, _ENCODE_FRAMES + 1) if num_frames % n == 0)

        def encode(start: jax.Array) -> DiagonalGaussian:
            pixels = self.model.enlarge(jax.lax.dynamic_slice_in_dim(frames, start, piece, axis=1), size)
            return self.model.encode(params, pixels)[0]

        moments = jax.lax.map(encode, jnp.arange(0, num_frames, piece))

        return jax.tree.map(lambda x: rearrange(x, "pieces b f ... -> b (pieces f) ..."), moments)

    def decode(self, params: Tree, latents: jax.Array) -> jax.Array:
        """Decodes scaled latents as one group: frames [B, F, H, W, 3], float32, approximately in [-1, 1]."""
        return self.model.decode(params, latents)[0].astype(jnp.float32)

    def decode_clip(self, params: Tree, latents: jax.Array) -> jax.Array:
        """Decodes scaled latents group by group to frames [B, F, H, W, 3]; frames in two groups are averaged."""
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
        """Text embeddings [B, L, D], or the null context if the model reads no text."""
        if "text_embedding" in batch:
            return batch["text_embedding"].astype(self.model.dtype)
        if "input_ids" in batch:
            return self.model.encode_text(params, batch["input_ids"])
        return self.model.empty_context(len(batch["index"]))


def cast_params(model: VideoModel, trainable: Tree, frozen: Tree, lora_scale: float = 1.0) -> Tree:
    """All weights by component: trained ones are cast to the compute dtype, and low-rank updates are merged.

    Args:
      model: model that the weights belong to.
      trainable: trained weights by component, or low-rank updates as component `lora`.
      frozen: the other weights.
      lora_scale: factor of the updates.
    """
    params = {name: tree for name, tree in trainable.items() if name != LORA}
    params = merge_params(jax.tree.map(lambda x: x.astype(model.dtype), params), frozen)
    if LORA in trainable:
        params = merge_lora(params, trainable[LORA], lora_scale)
    # The VAE runs in loops over frames, and each iteration would gather its weights again.
    return params | {name: gather_weights(params[name]) for name in model.autoencoder_components}


@dataclass(frozen=True)
class CastVelocity:
    """The network as a `VelocityFn` of (trainable, frozen) weights; equal models share a sampler's programs."""

    model: VideoModel
    lora_scale: float = 1.0

    def __call__(self, params: tuple[Tree, Tree], *args: Any) -> jax.Array:
        return self.model.velocity(cast_params(self.model, *params, self.lora_scale), *args)
