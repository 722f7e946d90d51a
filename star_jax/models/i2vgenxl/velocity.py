"""STAR's network as a pure function: the ControlNet's outputs steer the base UNet."""

from typing import Any

import jax
from flax import nnx

from star_jax.models.i2vgenxl.unet import TextProjections
from star_jax.models.layers import fold_key


def project_text(
    unet: nnx.GraphDef, controlnet: nnx.GraphDef, params: dict[str, Any], context: jax.Array
) -> dict[str, TextProjections]:
    """What both networks attend to in a text: the same for every frame and at every step of sampling.

    Args:
      unet, controlnet, params: see `star_velocity`.
      context: text embeddings [B, L, cross_attention_dim].
    """
    graphs = {"unet": unet, "controlnet": controlnet}
    return {name: nnx.merge(graph, params[name]).project_text(context) for name, graph in graphs.items()}


def star_velocity(
    unet: nnx.GraphDef,
    controlnet: nnx.GraphDef,
    params: dict[str, Any],
    sample: jax.Array,
    timesteps: jax.Array,
    context: jax.Array | dict[str, TextProjections],
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
      context: text embeddings [B, L, cross_attention_dim], or what `project_text` makes of them.
      hint: latents of the low-resolution video [B, F, H, W, 4].
      dropout_key: None for inference.

    Returns:
      [B, F, H, W, 4] in the network's compute dtype.
    """
    texts = context if isinstance(context, dict) else dict.fromkeys(("unet", "controlnet"), context)
    control = nnx.merge(controlnet, params["controlnet"])(
        sample, timesteps, texts["controlnet"], hint, dropout_key=fold_key(dropout_key, 0)
    )
    return nnx.merge(unet, params["unet"])(
        sample, timesteps, texts["unet"], control, dropout_key=fold_key(dropout_key, 1)
    )
