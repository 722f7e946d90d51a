"""A one-step model, trained on the ground truth (DOVE, arXiv 2505.16239).

    x0_hat = alpha_T x - sigma_T v_student(x, T, c, hint)
    x = sigma_T (alpha_T hint + sigma_T noise), scaled as at the start of sampling; or x = hint
    L = w_latent mean (x0_hat - x0)^2  +  the terms of `pixel_terms` on frames decoded from x0_hat

at one timestep T. DOVE's first stage has the latent term alone; the second goes through the decoder.
"""

from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.diffusion.losses import draw_groups, velocity_loss
from star_jax.diffusion.noise import named_key
from star_jax.diffusion.process import diffuse, x0_from_velocity
from star_jax.errors import InputError
from star_jax.train.distill.config import DistillExperiment, OneStepConfig
from star_jax.train.distill.pixel_terms import METRICS, has_pixel_terms, load_metric_networks, pixel_terms
from star_jax.train.distill.student import StudentObjective
from star_jax.train.sample_draws import sample_keys, sample_noise

Tree = dict[str, Any]
Batch = dict[str, jax.Array]


class OneStepObjective(StudentObjective):
    """Implements `star_jax.train.objective.Objective`.

    Raises:
      InputError: as in `StudentObjective`; or all weights are 0, or a metric's network has no weights.
    """

    rung: OneStepConfig

    def __init__(self, config: DistillExperiment):
        super().__init__(config)
        self.timestep = self.model.start_timestep
        group = self.model.size_rule.num_frames(min(config.diffusion.decode_group, config.data.num_frames))
        if self.rung.difference_weight and group < 2:
            raise InputError(
                "distill.difference_weight compares neighbouring frames, but diffusion.decode_group is 1; set "
                "diffusion.decode_group to 2 or more"
            )
        self.check_terms()

    def check_terms(self) -> None:
        """Rejects a run that would learn nothing.

        Raises:
          InputError: all weights are 0, and the DF loss is off.
        """
        if not (self.rung.latent_weight or has_pixel_terms(self.rung, self.loss_config)):
            raise InputError(
                "all weights in distill are 0 and diffusion.frequency is off; set a weight, such as "
                "distill.latent_weight=1"
            )

    def abstract_params(self) -> tuple[Tree, Tree]:
        trainable, frozen = super().abstract_params()
        networks = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self._metric_networks)
        return trainable, frozen | ({METRICS: networks} if networks else {})

    def load(self, abstract_trainable: Tree, abstract_frozen: Tree) -> tuple[Tree, Tree]:
        rest = {name: tree for name, tree in abstract_frozen.items() if name != METRICS}
        trainable, frozen = super().load(abstract_trainable, rest)
        if METRICS in abstract_frozen:
            frozen[METRICS] = jax.tree.map(
                lambda x, to: jax.device_put(x, to.sharding), self._metric_networks, abstract_frozen[METRICS]
            )
        return trainable, frozen

    @cached_property
    def _metric_networks(self) -> Tree:
        return load_metric_networks(self.rung)

    def one_step(self, params: Tree, text: jax.Array, hint: jax.Array, keys: jax.Array) -> jax.Array:
        """The student's clean latents, float32 [B, F, h, w, C]."""
        timesteps = jnp.full(len(hint), self.timestep, jnp.int32)
        x = hint
        if self.rung.start == "noise":
            noised = diffuse(self.schedule, hint, sample_noise(keys, "start", hint.shape), timesteps)
            x = np.float32(self.schedule.sigmas[self.timestep]) * noised
        velocity = self.velocity(params, x, timesteps, text, hint).astype(jnp.float32)
        return x0_from_velocity(self.schedule, x, velocity, timesteps)

    def truth_terms(
        self, params: Tree, frozen: Tree, batch: Batch, key: jax.Array, x0_hat: jax.Array, x0: jax.Array
    ) -> dict[str, jax.Array]:
        """The weighted `loss_latent` and terms of `pixel_terms`, float32 [B]; terms of weight 0 are left out."""
        terms = {}
        if self.rung.latent_weight:
            terms["loss_latent"] = self.rung.latent_weight * velocity_loss(x0_hat, x0)
        if has_pixel_terms(self.rung, self.loss_config):
            compare = partial(
                pixel_terms, self.rung, self.loss_config, frozen.get(METRICS, {}), self.max_timestep
            )
            groups = draw_groups(self.loss_config, x0.shape[1], named_key(key, "groups"))
            terms |= self.decoded_loss(compare, params, x0_hat, x0, batch, groups)
        return terms

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
        """See `truth_terms`; `timesteps` are ignored, because the student has a single one."""
        del timesteps, dropout_key
        params, keys = self.cast_params(trainable, frozen), sample_keys(key, batch)
        x0, hint = self.encode(params, batch, keys)
        x0_hat = self.one_step(params, self.context(params, batch), hint, keys)
        terms = self.truth_terms(params, frozen, batch, key, x0_hat, x0)
        return terms or {"loss_latent": velocity_loss(x0_hat, x0)}

    @property
    def validation_settings(self) -> dict[str, Any]:
        return {"steps": 1, "timestep": self.timestep}
