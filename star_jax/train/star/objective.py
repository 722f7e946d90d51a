"""Training STAR: velocity prediction and the dynamic frequency loss, with the VAE and the text encoder frozen."""

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.config import ArchitectureConfig
from star_jax.data.config import DataConfig
from star_jax.diffusion.losses import (
    LossConfig,
    draw_groups,
    frequency_loss,
    frequency_weight,
    velocity_loss,
)
from star_jax.diffusion.noise import named_key
from star_jax.diffusion.process import diffuse, velocity, x0_from_velocity
from star_jax.errors import InputError
from star_jax.models.architectures import build_model
from star_jax.models.lora import LORA, lora_scale
from star_jax.ops.attention import AttentionKernels
from star_jax.ops.pixels import to_float
from star_jax.ops.remat import rematerialise
from star_jax.parallel.activations import split_columns
from star_jax.train.config import ModelConfig, TrainConfig
from star_jax.train.sample_draws import sample_keys, sample_noise
from star_jax.train.star.batches import StarBatches
from star_jax.train.star.networks import StarNetworks
from star_jax.train.star.validation import StarValidation
from star_jax.train.star.weights import (
    load_weights,
    model_sizes,
    require_checkpoint,
    start_lora,
    trained_and_frozen,
)

Tree = dict[str, Any]
Batch = dict[str, jax.Array]


class StarObjective(StarNetworks):
    """Implements `star_jax.train.objective.Objective`.

    Batches are those of `StarBatches`. Timesteps and noise depend on each sample's `index`, not on its batch.

    Frozen weights and all activations have the compute dtype (including the VAE's, as in the released training);
    the diffusion and the losses are computed in float32.

    Raises:
      InputError: the networks do not support the data's sizes, or the checkpoint does not fit.
    """

    def __init__(self, model: ModelConfig, loss: LossConfig, data: DataConfig, train: TrainConfig):
        super().__init__(
            build_model(
                self.sizes(model),
                dtype=model.dtype,
                kernels=AttentionKernels.all(model.attention),
                remat=train.remat,
                training=True,
            ),
            data,
            loss.decode_group,
            lora_scale(model.lora_rank, model.lora_alpha),
        )
        self.loss_config, self.checkpoint = loss, model.checkpoint
        self.model_config, self.seed = model, train.seed
        self.batches = StarBatches(self.model, data, model.checkpoint)
        if train.validate_every_steps and train.validation_source is not None:
            self.batches.check_like(train.validation_source)
        self.schedule = self.model.schedule
        num_latents = self.model.size_rule.num_latents(data.num_frames)
        draw_groups(loss, num_latents, jax.random.key(0))  # raises if there are too few frames
        if self.model.size_rule.frames_per_latent > 1 and loss.decode_group < num_latents:
            raise InputError(
                f"diffusion.decode_group is {loss.decode_group}, but this model decodes all latents of a clip "
                f"together; set it to {num_latents}"
            )
        unused = self.model.text_components if self.batches.latents else ()
        used = [name for name in self.model.components if name not in unused]
        self._trainable, self._frozen = trained_and_frozen(self.model, model, used)

    def sizes(self, model: ModelConfig) -> ArchitectureConfig:
        """Sizes of the networks, and how the trained model is sampled."""
        return model_sizes(model)

    @property
    def max_timestep(self) -> int:
        return self.schedule.num_train_timesteps - 1

    def abstract_params(self) -> tuple[Tree, Tree]:
        return self._trainable, self._frozen

    def load(self, abstract_trainable: Tree, abstract_frozen: Tree) -> tuple[Tree, Tree]:
        checkpoint = require_checkpoint(self.checkpoint)
        if LORA not in abstract_trainable:
            return load_weights(checkpoint, abstract_trainable, abstract_frozen)
        updates = start_lora(self.model_config, abstract_trainable[LORA], self.seed)
        return {LORA: updates}, load_weights(checkpoint, {}, abstract_frozen)[1]

    # Batches: see `StarBatches`.

    def prepare_batch(self, host_batch: dict[str, Any]) -> dict[str, np.ndarray]:
        return self.batches.prepare(host_batch)

    def abstract_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        return self.batches.abstract(batch_size)

    # The loss.

    def loss(
        self, trainable: Tree, frozen: Tree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """See `Objective`; the metrics `loss_velocity` and `loss_df` (b(t) L_DF) add up to the loss."""
        timesteps = self.draw_timesteps(batch, key)
        # It depends on the first sample, so that pieces of an accumulated batch do not drop the same units.
        dropout_key = jax.random.fold_in(named_key(key, "dropout"), batch["index"][0])
        terms = self.loss_terms(trainable, frozen, batch, key, timesteps, dropout_key=dropout_key)
        means = {name: values.mean() for name, values in terms.items()}
        total: Any = sum(means.values())
        return total, means

    def draw_timesteps(self, batch: Batch, key: jax.Array) -> jax.Array:
        """Draws timesteps uniformly from the configured range, int32 [B]."""
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
        context = self.context(params, batch)
        if self.model.text_dropout and dropout_key is not None:
            context = self._drop_text(context, keys)
        predicted = self.velocity(params, x_t, timesteps, context, hint, dropout_key=dropout_key).astype(
            jnp.float32
        )
        target = velocity(self.schedule, x0, noise, timesteps)
        terms = {"loss_velocity": velocity_loss(predicted, target)}
        if self.loss_config.frequency != "off":
            x0_hat = x0_from_velocity(self.schedule, x_t, predicted, timesteps)
            if self.loss_config.stop_gradient:
                x0_hat = jax.lax.stop_gradient(x0_hat)
            groups = draw_groups(self.loss_config, x0.shape[1], named_key(key, "groups"))
            weight = frequency_weight(self.loss_config, timesteps, self.max_timestep)
            compare = partial(
                frequency_loss, self.loss_config, timesteps=timesteps, max_timestep=self.max_timestep
            )
            terms["loss_df"] = weight * self.decoded_loss(compare, params, x0_hat, x0, batch, groups)
        return terms

    def _drop_text(self, context: jax.Array, keys: jax.Array) -> jax.Array:
        """Replaces the text of random samples, so that the network learns the unconditional branch of guidance."""
        dropped = jax.vmap(
            lambda key: jax.random.bernoulli(named_key(key, "text_dropout"), self.model.text_dropout)
        )(keys)
        return jnp.where(dropped[:, None, None], self.model.unconditional_context(context), context)

    def decoded_loss(
        self,
        compare: Callable[[jax.Array, jax.Array], Any],
        params: Tree,
        x0_hat: jax.Array,
        x0: jax.Array,
        batch: Batch,
        groups: tuple[jax.Array, jax.Array],
    ) -> Any:
        """Losses of the drawn groups, each of which is decoded and compared; the backward pass decodes it again.

        Args:
          compare: (decoded frames, true frames), each [B, f, H, W, 3] -> losses [B, f], or a tree of them.
          params: weights by component.
          x0_hat, x0: predicted and true latents [B, F, h, w, C].
          batch: of `StarBatches`.
          groups: see `draw_groups`.

        Returns:
          The weighted sums of the losses, float32 [B] each.
        """
        length = groups[1].shape[1]
        x0_hat, x0 = split_columns(x0_hat), split_columns(x0)  # every device then has columns of all frames
        batch = {name: split_columns(clip) if name == "gt" else clip for name, clip in batch.items()}

        num_frames = self.model.size_rule.num_frames(length)

        def part_of(clip: jax.Array, start: jax.Array, length: int = length) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(clip, start, length, axis=1)

        def weighted(losses: jax.Array, weights: jax.Array) -> jax.Array:
            if num_frames > length:  # a latent has several frames, and all are in one group
                return losses.mean(1) * weights.sum()
            return (losses * weights).sum(1)

        def of_group(x0_hat: jax.Array, start: jax.Array, weights: jax.Array) -> Any:
            decoded = self.decode(params, part_of(x0_hat, start))
            if "gt" in batch:
                truth = to_float(part_of(batch["gt"], start, num_frames))
            else:  # a dataset of latents has no frames, so the target is decoded from the latents
                truth = jax.lax.stop_gradient(self.decode(params, part_of(x0, start)))
            return jax.tree.map(lambda losses: weighted(losses, weights), compare(decoded, truth))

        decode_again = rematerialise(of_group, "full")
        per_group = jax.lax.map(lambda group: decode_again(x0_hat, *group), groups)
        return jax.tree.map(lambda losses: losses.sum(0), per_group)

    def validate(
        self, trainable: Tree, frozen: Tree, batches: list[Batch], image_path: Path | None
    ) -> dict[str, float]:
        """See `star_jax.train.star.validation.StarValidation`."""
        return self._validation.measure(trainable, frozen, batches, image_path)

    @cached_property
    def _validation(self) -> StarValidation:
        """The validation, made once so that its programs are compiled once."""
        return StarValidation(self, self.loss_terms, **self.validation_settings)

    @property
    def validation_settings(self) -> dict[str, Any]:
        """Keyword arguments of `StarValidation` that differ from its defaults."""
        return {}
