"""Distribution matching and a discriminator at once, on the same networks (DUO-VSR, arXiv 2603.22271, stage II).

The student G makes x0_hat in one step. Two networks of the same size see it with noise, x_t = alpha x0_hat +
sigma noise: the frozen guided teacher (the real score), and a copy that is trained to denoise the student's samples
(the fake score). Heads on the features of both judge whether a noised clip is the student's or real.

    student turn     w_m D(x0_hat) - w_a mean heads(f(x_t)) + w_f mean |f(x_t) - f(x_t of the truth)|
                     + the terms of `one_step`
    auxiliary turns  mean (v_fake(x_t) - v)^2 + hinge(heads(f(x_t of the truth)), heads(f(x_t)))

D is `distribution_matching.matching_loss`, and f are features of both networks. One of `student_every` steps is the
student's. The heads' loss sends no gradient to the networks; the student's gradient passes through the networks to
x0_hat, but not to their weights.
"""

from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from star_jax.diffusion.guidance import combine_branches
from star_jax.diffusion.losses import velocity_loss
from star_jax.diffusion.process import diffuse, velocity, x0_from_velocity
from star_jax.models.lora import LORA, fresh_lora
from star_jax.train.distill.config import DualStreamConfig, head_optimizer
from star_jax.train.distill.distribution_matching import (
    adversarial_loss,
    critic_loss,
    feature_loss,
    matching_loss,
    normalised_weight,
)
from star_jax.train.distill.heads import HeadsOf, normalised
from star_jax.train.distill.one_step import OneStepObjective
from star_jax.train.distill.teacher import TaughtObjective
from star_jax.train.sample_draws import sample_keys, sample_noise
from star_jax.train.star.networks import cast_params
from star_jax.train.turns import Part, Turns

Tree = dict[str, Any]
Batch = dict[str, jax.Array]

STUDENT, FAKE, HEADS, AUXILIARY = "student", "fake", "heads", "auxiliary"


class Noised(NamedTuple):
    """Noised latents that both kinds of turns use.

    Attributes:
      params: weights of the student and of the autoencoder.
      x0, x0_hat: latents of the ground truth and of the student [B, F, h, w, C].
      x_t, x_t_hat: both with the same noise.
      noise, timesteps: noise and timesteps of x_t and x_t_hat.
      inputs: (timesteps, text, hint), the networks' arguments after the latents.
    """

    params: Tree
    x0: jax.Array
    x0_hat: jax.Array
    x_t: jax.Array
    x_t_hat: jax.Array
    noise: jax.Array
    timesteps: jax.Array
    inputs: tuple[jax.Array, jax.Array, jax.Array]


class DualStreamObjective(TaughtObjective, OneStepObjective):
    """Implements `star_jax.train.turns.Alternating`."""

    rung: DualStreamConfig

    @cached_property
    def turns(self) -> Turns:
        optimizer = self.experiment.optimizer
        parts = {
            STUDENT: Part(tuple(self._trainable), STUDENT, optimizer),
            FAKE: Part((FAKE,), AUXILIARY, optimizer),
            HEADS: Part((HEADS,), AUXILIARY, head_optimizer(self.rung, optimizer)),
        }
        return Turns((AUXILIARY,) * (self.rung.student_every - 1) + (STUDENT,), parts)

    def check_terms(self) -> None:
        """Accepts any weights: those of the terms of `one_step` may all be 0 here."""

    @cached_property
    def heads(self) -> HeadsOf:
        """The heads on features of the real score, followed by those on features of the fake score."""
        model, batch = self.model, self.abstract_batch(1)
        params = model.abstract_params(model.network_components)
        latents = model.size_rule.num_latents(self.data.num_frames), *self.batches.latent_size
        x = jax.ShapeDtypeStruct((1, *latents, model.latent_channels), jnp.float32)
        timesteps = jax.ShapeDtypeStruct(batch["index"].shape, jnp.int32)
        text = jax.ShapeDtypeStruct((1, *model.context_shape), model.dtype)
        features = jax.eval_shape(model.features, params, x, timesteps, text, x)[1]
        return HeadsOf([feature.shape[-1] for feature in features] * 2, self.rung.head_channels)

    # Weights: the student's are at the top level, as in any run.

    def abstract_params(self) -> tuple[Tree, Tree]:
        trainable, frozen = super().abstract_params()
        return trainable | {FAKE: trainable, HEADS: self.heads.shapes}, frozen

    def load(self, abstract_trainable: Tree, abstract_frozen: Tree) -> tuple[Tree, Tree]:
        of_student = {name: abstract_trainable[name] for name in self._trainable}
        trainable, frozen = super().load(of_student, abstract_frozen)
        abstract_fake = abstract_trainable[FAKE]
        if LORA in abstract_fake:
            fake = _placed({LORA: fresh_lora(abstract_fake[LORA], self.seed + 1)}, abstract_fake)
        else:
            fake = self.load_teacher(abstract_fake)
        heads = _placed(self.heads.fresh(self.seed), abstract_trainable[HEADS])
        return trainable | {FAKE: fake, HEADS: heads}, frozen

    # The losses of a turn.

    def loss_of_turn(
        self, kind: str, trainable: Tree, frozen: Tree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        seen = self._noised(trainable, frozen, batch, key)
        turn = self._student_terms if kind == STUDENT else self._auxiliary_terms
        terms = {name: values.mean() for name, values in turn(seen, trainable, frozen, batch, key).items()}
        total: Any = sum(terms.values())
        return total, terms

    def _noised(self, trainable: Tree, frozen: Tree, batch: Batch, key: jax.Array) -> Noised:
        own = {name: trainable[name] for name in self._trainable}
        params, keys = self.cast_params(own, frozen), sample_keys(key, batch)
        x0, hint = self.encode(params, batch, keys)
        text = self.context(params, batch)
        x0_hat = self.one_step(params, text, hint, keys)
        noise, timesteps = sample_noise(keys, "diffusion", x0.shape), self.draw_timesteps(batch, key)
        x_t, x_t_hat = (diffuse(self.schedule, x, noise, timesteps) for x in (x0, x0_hat))
        return Noised(params, x0, x0_hat, x_t, x_t_hat, noise, timesteps, (timesteps, text, hint))

    def _student_terms(
        self, seen: Noised, trainable: Tree, frozen: Tree, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        timesteps, _, hint = seen.inputs
        real, fake = self.teacher(frozen), self._fake(jax.lax.stop_gradient(trainable), frozen)
        v_real, real_features = self.model.features(real, seen.x_t_hat, *seen.inputs)
        v_fake, fake_features = self.model.features(fake, seen.x_t_hat, *seen.inputs)
        negative = self.negative(seen.params, batch)
        v_negative = self.velocity(real, jax.lax.stop_gradient(seen.x_t_hat), timesteps, negative, hint)
        v_guided = combine_branches(
            v_real.astype(jnp.float32),
            v_negative.astype(jnp.float32),
            self.rung.guidance_scale,
            self.model.config.diffusion.guidance_rescale,
        )
        x0_real, x0_fake = (
            jax.lax.stop_gradient(x0_from_velocity(self.schedule, seen.x_t_hat, v, timesteps))
            for v in (v_guided, v_fake.astype(jnp.float32))
        )
        features = normalised((*real_features, *fake_features))
        of_truth = jax.lax.stop_gradient(self._features(real, fake, seen.x_t, seen))
        heads = jax.lax.stop_gradient(trainable[HEADS])
        weight = normalised_weight(seen.x0_hat, x0_real)
        config = self.rung
        return {
            "loss_matching": config.matching_weight * matching_loss(seen.x0_hat, x0_real, x0_fake, weight),
            "loss_adversarial": config.adversarial_weight * adversarial_loss(self.heads(heads, features)),
            "loss_feature": config.feature_weight * feature_loss(of_truth, features),
            **self.truth_terms(seen.params, frozen, batch, key, seen.x0_hat, seen.x0),
        }

    def _auxiliary_terms(
        self, seen: Noised, trainable: Tree, frozen: Tree, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        del batch, key
        seen = jax.lax.stop_gradient(seen)
        real, fake = self.teacher(frozen), self._fake(trainable, frozen)
        predicted, fake_features = self.model.features(fake, seen.x_t_hat, *seen.inputs)
        real_features = self.model.features(real, seen.x_t_hat, *seen.inputs)[1]
        features, of_truth = jax.lax.stop_gradient(
            (normalised((*real_features, *fake_features)), self._features(real, fake, seen.x_t, seen))
        )
        target = velocity(self.schedule, seen.x0_hat, seen.noise, seen.timesteps)
        heads = trainable[HEADS]
        return {
            "loss_fake": velocity_loss(predicted, target),
            "loss_heads": critic_loss(self.heads(heads, of_truth), self.heads(heads, features)),
        }

    def _features(self, real: Tree, fake: Tree, x_t: jax.Array, seen: Noised) -> list[jax.Array]:
        """Normalised features of both networks for the given latents."""
        parts = [self.model.features(params, x_t, *seen.inputs)[1] for params in (real, fake)]
        return normalised((*parts[0], *parts[1]))

    def _fake(self, trainable: Tree, frozen: Tree) -> Tree:
        return cast_params(self.model, trainable[FAKE], self.base(frozen), self.lora_scale)


def _placed(tree: Tree, like: Tree) -> Tree:
    return jax.tree.map(lambda leaf, to: jax.device_put(leaf, to.sharding), tree, like)
