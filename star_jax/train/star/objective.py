"""Training STAR: velocity prediction and the dynamic frequency loss, with the VAE and the text tower frozen."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from star_jax.data.config import DataConfig
from star_jax.diffusion.losses import (
    LossConfig,
    decode_groups,
    draw_groups,
    frequency_loss,
    frequency_weight,
    velocity_loss,
)
from star_jax.diffusion.process import diffuse, velocity, x0_from_velocity
from star_jax.diffusion.schedule import NoiseSchedule
from star_jax.models.components import abstract_component
from star_jax.models.i2vgenxl.velocity import star_velocity
from star_jax.models.svd_vae.vae import DiagonalGaussian
from star_jax.ops.attention import AttentionKernels
from star_jax.ops.pixels import enlarge, to_float
from star_jax.ops.platform import target_platform
from star_jax.parallel.activations import gather_weights, split_columns
from star_jax.train.config import ModelConfig, TrainConfig
from star_jax.train.sample_draws import named_key, sample_keys, sample_noise
from star_jax.train.star.batches import StarBatches
from star_jax.train.star.validation import validate_star
from star_jax.train.star.weights import load_weights, model_sizes, require_checkpoint
from star_jax.train.state import is_trainable, merge_params, split_trainable

Tree = dict[str, Any]
Batch = dict[str, jax.Array]

# Frames that the encoder works on together; each is encoded on its own, and this bounds the activations.
_ENCODE_FRAMES = 2


class StarObjective:
    """Implements `star_jax.train.objective.Objective`.

    Batches are those of `StarBatches`. Timesteps and noise are drawn by each sample's `index`, whatever batch the
    sample is in.

    Frozen weights and all activations are in the compute dtype (the VAE's, too, as in the released training), the
    diffusion and the losses in float32.

    Raises:
      InputError: sizes that the networks do not take, or a checkpoint that does not fit.
    """

    def __init__(self, model: ModelConfig, loss: LossConfig, data: DataConfig, train: TrainConfig):
        self.config, self.loss_config, self.data = model_sizes(model), loss, data
        self.checkpoint = model.checkpoint
        self.batches = StarBatches(self.config, data, model.checkpoint)
        if train.validate_every_steps and train.validation_source is not None:
            self.batches.check_like(train.validation_source)
        self.schedule = NoiseSchedule.from_config(self.config.diffusion)
        self.dtype = _compute_dtype(model.dtype)
        draw_groups(loss, data.num_frames, jax.random.key(0))  # refuses more frames than there are
        self._graphs, abstract = {}, {}
        for name in self._component_names():
            self._graphs[name], abstract[name] = abstract_component(
                self.config,
                name,
                dtype=self.dtype,
                kernels=AttentionKernels.all(model.attention),
                remat=train.remat,
            )
        trainable, self._frozen = split_trainable(
            abstract, partial(is_trainable, train_base=model.train_base)
        )
        self._trainable = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), trainable)

    @property
    def max_timestep(self) -> int:
        return self.schedule.num_train_timesteps - 1

    def _component_names(self) -> list[str]:
        has_tower = self.config.text_encoder is not None and not self.batches.latents
        return ["unet", "controlnet", "vae"] + ["text_encoder"] * has_tower

    def abstract_params(self) -> tuple[Tree, Tree]:
        return self._trainable, self._frozen

    def load(self, abstract_trainable: Tree, abstract_frozen: Tree) -> tuple[Tree, Tree]:
        return load_weights(require_checkpoint(self.checkpoint), abstract_trainable, abstract_frozen)

    # Batches: see `StarBatches`.

    def prepare_batch(self, host_batch: dict[str, Any]) -> dict[str, np.ndarray]:
        return self.batches.prepare(host_batch)

    def abstract_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        return self.batches.abstract(batch_size)

    # The loss.

    def loss(
        self, trainable: Tree, frozen: Tree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """See `Objective`; metrics `loss_velocity` and `loss_df` (b(t) L_DF) add up to the loss."""
        timesteps = self.draw_timesteps(batch, key)
        # By the first sample, so that pieces of an accumulated batch do not drop the same units.
        dropout_key = jax.random.fold_in(named_key(key, "dropout"), batch["index"][0])
        terms = self.loss_terms(trainable, frozen, batch, key, timesteps, dropout_key=dropout_key)
        means = {name: values.mean() for name, values in terms.items()}
        return sum(means.values()), means

    def draw_timesteps(self, batch: Batch, key: jax.Array) -> jax.Array:
        """Uniform over the configured range, int32 [B]."""
        first, last = self.loss_config.first_timestep, self.loss_config.last_timestep

        def draw(key: jax.Array) -> jax.Array:
            return jax.random.randint(named_key(key, "timestep"), (), first, last + 1)

        return jax.vmap(draw)(sample_keys(key, batch))

    def loss_terms(
        self,
        trainable: Tree,
        frozen: Tree,
        batch: Batch,
        key: jax.Array,
        timesteps: jax.Array,
        *,
        dropout_key: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """The terms of the loss at given timesteps, per sample.

        Returns:
          `loss_velocity` and, unless it is off, `loss_df`, float32 [B].
        """
        params = self.cast_params(trainable, frozen)
        keys = sample_keys(key, batch)
        x0, hint = self.encode(params, batch, keys)
        noise = sample_noise(keys, "diffusion", x0.shape)
        x_t = diffuse(self.schedule, x0, noise, timesteps)
        predicted = self.velocity(
            params, x_t, timesteps, self.context(params, batch), hint, dropout_key=dropout_key
        ).astype(jnp.float32)
        target = velocity(self.schedule, x0, noise, timesteps)
        terms = {"loss_velocity": velocity_loss(predicted, target)}
        if self.loss_config.frequency != "off":
            x0_hat = x0_from_velocity(self.schedule, x_t, predicted, timesteps)
            if self.loss_config.stop_gradient:
                x0_hat = jax.lax.stop_gradient(x0_hat)
            groups = draw_groups(self.loss_config, x0.shape[1], named_key(key, "groups"))
            weight = frequency_weight(self.loss_config, timesteps, self.max_timestep)
            terms["loss_df"] = weight * self._decoded_loss(params, x0_hat, x0, batch, timesteps, groups)
        return terms

    def _decoded_loss(
        self,
        params: Tree,
        x0_hat: jax.Array,
        x0: jax.Array,
        batch: Batch,
        timesteps: jax.Array,
        groups: tuple[jax.Array, jax.Array],
    ) -> jax.Array:
        """L_DF of the drawn groups, float32 [B]; each group is decoded, compared and, backwards, decoded again."""
        length = groups[1].shape[1]
        x0_hat, x0 = split_columns(x0_hat), split_columns(x0)  # any group's frames are then on every device
        batch = {name: split_columns(clip) if name == "gt" else clip for name, clip in batch.items()}

        def frames_of(clip: jax.Array, start: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(clip, start, length, axis=1)

        @jax.checkpoint
        def of_group(x0_hat: jax.Array, start: jax.Array, weights: jax.Array) -> jax.Array:
            decoded = self.decode(params, frames_of(x0_hat, start))
            if "gt" in batch:
                truth = to_float(frames_of(batch["gt"], start))
            else:  # of latents, the nearest thing to the ground truth is what the VAE makes of them
                truth = jax.lax.stop_gradient(self.decode(params, frames_of(x0, start)))
            losses = frequency_loss(self.loss_config, decoded, truth, timesteps, self.max_timestep)
            return (losses * weights).sum(1)

        per_group = jax.lax.map(lambda group: of_group(x0_hat, *group), groups)
        return per_group.sum(0)

    # The networks.

    def cast_params(self, trainable: Tree, frozen: Tree) -> Tree:
        """All weights by component, trained ones cast to the compute dtype."""
        params = merge_params(jax.tree.map(lambda x: x.astype(self.dtype), trainable), frozen)
        # The VAE runs in loops over frames, each turn of which would gather its weights again.
        return params | {"vae": gather_weights(params["vae"])}

    def velocity(self, params: Tree, *args: jax.Array, dropout_key: jax.Array | None = None) -> jax.Array:
        """See `star_velocity`; params as `cast_params` returns them."""
        return star_velocity(
            self._graphs["unet"], self._graphs["controlnet"], params, *args, dropout_key=dropout_key
        )

    def encode(self, params: Tree, batch: Batch, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Latents of the ground truth and of the enlarged low resolution, float32 [B, F, h, w, C], scaled.

        Both are samples of the VAE's posterior, as in the released training.
        """
        latents = []
        for name in ("gt", "lq"):
            if not self.batches.latents:
                posterior = self._posterior(params, batch[name])
            else:
                moments = (batch[f"{name}_{part}"].astype(jnp.float32) for part in ("mean", "logvar"))
                posterior = DiagonalGaussian(*moments)
            noise = sample_noise(keys, f"posterior_{name}", posterior.mean.shape)
            latents.append(posterior.sample(noise) * self.config.vae.scaling_factor)
        return tuple(latents)

    def _posterior(self, params: Tree, frames: jax.Array) -> DiagonalGaussian:
        """uint8 [B, F, h, w, 3], enlarged bilinearly (half-pixel centres) to the data's size, a few at a time."""
        batch, num_frames = frames.shape[:2]
        frames = split_columns(frames)
        size = (self.data.height, self.data.width)
        piece = max(n for n in range(1, _ENCODE_FRAMES + 1) if num_frames % n == 0)

        def encode(start: jax.Array) -> DiagonalGaussian:
            pixels = enlarge(to_float(jax.lax.dynamic_slice_in_dim(frames, start, piece, axis=1)), size)
            return nnx.merge(self._graphs["vae"], params["vae"]).encode(pixels)

        moments = jax.lax.map(encode, jnp.arange(0, num_frames, piece))
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(batch, num_frames, *x.shape[3:]), moments)

    def decode(self, params: Tree, latents: jax.Array) -> jax.Array:
        """Frames [B, f, H, W, 3] float32 in about [-1, 1] of scaled latents, decoded as one group."""
        vae = nnx.merge(self._graphs["vae"], params["vae"])
        return vae.decode((latents / self.config.vae.scaling_factor).astype(self.dtype)).astype(jnp.float32)

    def decode_clip(self, params: Tree, latents: jax.Array) -> jax.Array:
        """All frames [B, F, H, W, 3] of scaled latents, group by group; frames of two groups are their mean."""
        starts, weights = decode_groups(latents.shape[1], self.loss_config.decode_group)
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
        """Text embeddings [B, L, D]; zeros [B, 1, D] for a model that reads no text."""
        if "text_embedding" in batch:
            return batch["text_embedding"].astype(self.dtype)
        if "input_ids" in batch:
            return nnx.merge(self._graphs["text_encoder"], params["text_encoder"])(batch["input_ids"])
        return jnp.zeros((len(batch["index"]), 1, self.config.unet.cross_attention_dim), self.dtype)

    def validate(
        self, trainable: Tree, frozen: Tree, batches: list[Batch], image_path: Path | None
    ) -> dict[str, float]:
        """See `star_jax.train.star.validation.validate_star`."""
        return validate_star(self, trainable, frozen, batches, image_path)


def _compute_dtype(name: str) -> jnp.dtype:
    """`auto` is bfloat16, on a CPU float32."""
    if name == "auto":
        name = "float32" if target_platform() == "cpu" else "bfloat16"
    return jnp.dtype(name)
