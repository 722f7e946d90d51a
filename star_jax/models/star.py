"""STAR's network as a pure function: the ControlNet's outputs steer the base UNet."""

from typing import Any

import jax
from flax import nnx

from star_jax.models.layers import fold_key


def star_velocity(
    unet: nnx.GraphDef,
    controlnet: nnx.GraphDef,
    params: dict[str, Any],
    sample: jax.Array,
    timesteps: jax.Array,
    context: jax.Array,
    hint: jax.Array,
    *,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Velocity of noisy latents, given text and the low-resolution latents (original: `ControlledV2VUNet`).

    Args:
      unet: structure of the base UNet, see `abstract_component`.
      controlnet: structure of the ControlNet.
      params: {"unet": tree, "controlnet": tree}.
      sample: noisy latents x_t [B, F, H, W, 4]; H 2 mod 8, W 0 mod 8 (for four levels).
      timesteps: [B], 0..999.
      context: text embeddings [B, L, cross_attention_dim].
      hint: latents of the low-resolution video [B, F, H, W, 4].
      dropout_key: None for inference.

    Returns:
      [B, F, H, W, 4] in the network's compute dtype.
    """
    control = nnx.merge(controlnet, params["controlnet"])(
        sample, timesteps, context, hint, dropout_key=fold_key(dropout_key, 0)
    )
    return nnx.merge(unet, params["unet"])(
        sample, timesteps, context, control, dropout_key=fold_key(dropout_key, 1)
    )
