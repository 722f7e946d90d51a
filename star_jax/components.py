"""The four networks of a model by component name, as modules and as abstract parameter trees."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from star_jax.config import StarConfig
from star_jax.models.controlnet import ControlNet
from star_jax.models.text_encoder import CLIPTextEncoder
from star_jax.models.unet import UNet
from star_jax.models.vae import AutoencoderKLTemporalDecoder


def build_component(
    name: str,
    config: StarConfig,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
) -> nnx.Module:
    """Builds `unet`, `controlnet`, `vae` or `text_encoder` with freshly initialised weights."""
    kwargs = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
    if name == "unet":
        return UNet(config.unet, **kwargs)
    if name == "controlnet":
        return ControlNet(config.unet, **kwargs)
    if name == "vae":
        return AutoencoderKLTemporalDecoder.from_config(config.vae, **kwargs)
    return CLIPTextEncoder.from_config(config.text_encoder, **kwargs)


def abstract_component(
    name: str, config: StarConfig, *, param_dtype: DTypeLike = jnp.float32
) -> dict[Any, Any]:
    """Shapes and dtypes of a component's parameters as a nested dict; nothing is allocated.

    Args:
      name: one of `checkpoint.COMPONENTS`.
      config: sizes.
      param_dtype: dtype of every leaf.

    Returns:
      Nested dict of jax.ShapeDtypeStruct, the tree that a checkpoint directory stores.
    """
    build = lambda: build_component(name, config, param_dtype=param_dtype, rngs=nnx.Rngs(0))  # noqa: E731
    state = nnx.to_pure_dict(nnx.state(nnx.eval_shape(build), nnx.Param))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
