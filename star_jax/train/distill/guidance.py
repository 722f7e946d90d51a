"""Distils guidance into the network: half the evaluations for the same number of steps.

    L = mean (v_student(x_t, t, c) - v_guided)^2,    x_t = alpha x_0 + sigma noise,  t uniform
    v_guided = rescale(v(x_t, t, negative) + s (v(x_t, t, c) - v(x_t, t, negative)))

where v is the teacher's velocity, guided as in upscaling (`star_jax.diffusion.guidance`). This is stage I of
DUO-VSR (arXiv 2603.22271), after Meng et al., "On distillation of guided diffusion models" (arXiv 2210.03142), at
one fixed scale s.
"""

import jax
import jax.numpy as jnp

from star_jax.diffusion.guidance import Conditioning, guided_velocity
from star_jax.diffusion.losses import velocity_loss
from star_jax.diffusion.process import diffuse
from star_jax.train.distill.config import GuidanceConfig
from star_jax.train.distill.teacher import TaughtObjective
from star_jax.train.sample_draws import sample_keys, sample_noise

Batch = dict[str, jax.Array]
Tree = dict


class GuidanceObjective(TaughtObjective):
    """Implements `star_jax.train.objective.Objective`; metric `loss_guidance`."""

    rung: GuidanceConfig

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
        """`loss_guidance`, float32 [B]."""
        del dropout_key  # the teacher's velocity has no dropout, so the student's has none
        student, teacher = self.cast_params(trainable, frozen), self.teacher(frozen)
        keys = sample_keys(key, batch)
        x0, hint = self.encode(student, batch, keys)
        x_t = diffuse(self.schedule, x0, sample_noise(keys, "diffusion", x0.shape), timesteps)
        text = self.context(student, batch)
        target = guided_velocity(
            self.model, teacher, x_t, timesteps, self.guidance(text, hint, self.negative(student, batch))
        )
        predicted = self.velocity(student, x_t, timesteps, text, hint).astype(jnp.float32)
        return {"loss_guidance": velocity_loss(predicted, jax.lax.stop_gradient(target))}

    def guidance(self, text: jax.Array, hint: jax.Array, negative: jax.Array) -> Conditioning:
        """Conditioning of the teacher, with guidance."""
        return Conditioning(
            context=text,
            hint=hint,
            uncond_context=negative,
            guidance_scale=jnp.float32(self.rung.guidance_scale),
            guidance_rescale=jnp.float32(self.model.config.diffusion.guidance_rescale),
        )
