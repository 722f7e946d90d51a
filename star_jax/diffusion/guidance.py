"""Classifier-free guidance with rescaling; both branches run in one batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# (params, x [B, F, H, W, C], timesteps int32 [B], context, hint [B, F, H, W, C]) -> velocity of the shape of x.
# With the attribute `takes_branches`, the batch size of context and velocity may be a multiple of B.
VelocityFn = Callable[..., jax.Array]


class Conditioning(NamedTuple):
    """The conditioning of the network.

    Attributes:
      context: text embeddings [B, L, D], or the network's projections of them: arrays whose first axis is B.
      hint: low-resolution latents [B, F, H, W, C].
      uncond_context: context of the negative prompt; None for the conditional branch alone.
      guidance_scale: weight of the difference between the branches, a float32 scalar or one per row of the
        solver's table [N].
      guidance_rescale: float32 scalar in [0, 1]: how far the deviation is moved towards the conditional branch's.
    """

    context: Any
    hint: jax.Array
    uncond_context: Any
    guidance_scale: jax.Array
    guidance_rescale: jax.Array


def make_conditioning(
    context: Any,
    hint: Float[Array, "B F H W C"],
    uncond_context: Any = None,
    *,
    guidance_scale: float | np.ndarray = 7.5,
    guidance_rescale: float = 0.2,
) -> Conditioning:
    """Builds a conditioning; a scale of 1 everywhere drops the unconditional branch and so half of the work."""
    return Conditioning(
        context=context,
        hint=hint,
        uncond_context=None if np.all(np.equal(guidance_scale, 1.0)) else uncond_context,
        guidance_scale=jnp.asarray(guidance_scale, jnp.float32),
        guidance_rescale=jnp.float32(guidance_rescale),
    )


def guided_velocity(
    velocity_fn: VelocityFn,
    params: object,
    x: Float[Array, "B F H W C"],
    timesteps: Int[Array, " B"],
    conditioning: Conditioning,
) -> Float[Array, "B F H W C"]:
    """The velocity after guidance, float32 [B, F, H, W, C].

    The conditional and the unconditional branch run as one batch of 2B, the conditional half first. A network with
    the attribute `takes_branches` gets contexts of 2B but the shared inputs once, so that it computes only once
    what does not depend on the context.
    """
    if conditioning.uncond_context is None:
        return velocity_fn(params, x, timesteps, conditioning.context, conditioning.hint).astype(jnp.float32)
    texts = conditioning.context, conditioning.uncond_context
    context = jax.tree.map(lambda *parts: jnp.concatenate(parts), *texts)
    hint = conditioning.hint
    if not getattr(velocity_fn, "takes_branches", False):
        x, timesteps, hint = (jnp.concatenate([part, part]) for part in (x, timesteps, hint))
    both = velocity_fn(params, x, timesteps, context, hint).astype(jnp.float32)
    cond, uncond = jnp.split(both, 2)
    return combine_branches(cond, uncond, conditioning.guidance_scale, conditioning.guidance_rescale)


def combine_branches(
    cond: Float[Array, "B F H W C"],
    uncond: Float[Array, "B F H W C"],
    scale: float | Float[Array, ""],
    rescale: float | Float[Array, ""],
) -> Float[Array, "B F H W C"]:
    """uncond + scale (cond - uncond), with its deviation moved towards that of `cond`.

    Rescaling follows Lin et al., "Common diffusion noise schedules and sample steps are flawed" (arXiv 2305.08891),
    section 3.4: the sum is multiplied by rescale std(cond)/std(out) + 1 - rescale, with unbiased standard
    deviations over all axes but the batch.
    """
    out = uncond + scale * (cond - uncond)
    axes = tuple(range(1, out.ndim))
    ratio = jnp.std(cond, axes, ddof=1, keepdims=True) / (jnp.std(out, axes, ddof=1, keepdims=True) + 1e-12)
    return out * (rescale * ratio + 1.0 - rescale)
