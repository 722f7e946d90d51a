"""The four networks of a checkpoint by name: how each is built from a configuration, without memory."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from star_jax.config import StarConfig
from star_jax.errors import InputError
from star_jax.models.clip.text_encoder import CLIPTextEncoder
from star_jax.models.i2vgenxl.controlnet import ControlNet
from star_jax.models.i2vgenxl.unet import UNet
from star_jax.models.rngs import InitRngs
from star_jax.models.svd_vae.vae import AutoencoderKLTemporalDecoder
from star_jax.ops.attention import AttentionKernels

COMPONENTS = ("unet", "controlnet", "vae", "text_encoder")


def component_names(config: StarConfig) -> tuple[str, ...]:
    """The components that a model of this configuration has."""
    return tuple(name for name in COMPONENTS if name != "text_encoder" or config.text_encoder is not None)


def build_component(
    config: StarConfig,
    name: str,
    *,
    dtype: jnp.dtype,
    param_dtype: jnp.dtype,
    rngs: nnx.Rngs,
    kernels: AttentionKernels = AttentionKernels(),
    remat: str = "none",
) -> nnx.Module:
    """Builds one network with fresh weights.

    Raises:
      InputError: no component of that name in this configuration.
    """
    kwargs = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
    if name == "unet":
        return UNet(config.unet, kernels=kernels, remat=remat, **kwargs)
    if name == "controlnet":
        return ControlNet(config.unet, kernels=kernels, remat=remat, **kwargs)
    if name == "vae":
        # Its one attention has a head as wide as its channels, which the flash kernels do not take.
        return AutoencoderKLTemporalDecoder.from_config(config.vae, attention="auto", remat=remat, **kwargs)
    if name == "text_encoder" and config.text_encoder is not None:
        return CLIPTextEncoder.from_config(config.text_encoder, **kwargs)
    raise InputError(
        f"preset {config.preset!r} has no component {name!r}; it has {', '.join(component_names(config))}"
    )


# Tracing a full-size network takes seconds, and no caller changes the result.
@functools.lru_cache(maxsize=16)
def abstract_component(
    config: StarConfig,
    name: str,
    *,
    dtype: jnp.dtype = jnp.float32,
    param_dtype: jnp.dtype | None = None,
    kernels: AttentionKernels = AttentionKernels(),
    remat: str = "none",
) -> tuple[nnx.GraphDef, dict[Any, Any]]:
    """A network's structure and the shapes of its parameters; no memory is used.

    Args:
      config: sizes.
      name: one of `component_names(config)`.
      dtype: of the computation.
      param_dtype: of the parameters; `dtype` by default.
      kernels: attention kernel of each site of the UNet and the ControlNet.
      remat: what training keeps of each block; see `star_jax.ops.remat`.

    Returns:
      The graph definition (for `nnx.merge` with a tree of values) and nested dicts of jax.ShapeDtypeStruct.
    """

    def build() -> nnx.Module:
        return build_component(
            config,
            name,
            dtype=dtype,
            param_dtype=param_dtype or dtype,
            rngs=InitRngs(0),
            kernels=kernels,
            remat=remat,
        )

    graphdef, state = nnx.split(nnx.eval_shape(build))
    return graphdef, jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), nnx.to_pure_dict(state)
    )
