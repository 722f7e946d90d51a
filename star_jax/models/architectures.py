"""Architectures by name: the only place that looks at a configuration's `architecture`."""

import json

import jax.numpy as jnp
from jax.typing import DTypeLike

from star_jax.config import ArchitectureConfig, StarConfig
from star_jax.config.cogvideox import CogVideoXConfig
from star_jax.errors import InputError
from star_jax.models.cogvideox.model import CogVideoX
from star_jax.models.i2vgenxl.model import I2VGenXL
from star_jax.models.video_model import VideoModel
from star_jax.ops.attention import AttentionKernels
from star_jax.ops.platform import resolve_dtype, vae_dtypes

ARCHITECTURES: dict[str, type[VideoModel]] = {
    StarConfig.architecture: I2VGenXL,
    CogVideoXConfig.architecture: CogVideoX,
}


def register(name: str, model: type[VideoModel]) -> None:
    """Adds an architecture for configurations to name."""
    ARCHITECTURES[name] = model


def build_model(
    config: ArchitectureConfig,
    *,
    dtype: DTypeLike = "float32",
    kernels: AttentionKernels = AttentionKernels(),
    remat: str = "none",
    training: bool = False,
    vae_dtype: str | tuple[jnp.dtype, jnp.dtype] = "auto",
) -> VideoModel:
    """Builds the model of a configuration.

    Args:
      config: sizes.
      dtype: `float32`, `bfloat16`, `float16`, or `auto`: bfloat16 on TPUs and GPUs, float32 on a CPU.
      kernels, remat, training: see `VideoModel`.
      vae_dtype: dtype of the autoencoder: `float32`, `bfloat16`, `float16`, or `auto` (float32, but float16 for a
        decoder on a GPU); or a pair of dtypes for the encoder and the decoder.

    Raises:
      InputError: unknown architecture or dtype.
    """
    model = _find(config.architecture)
    return model(config, resolve_dtype(dtype), kernels, remat, training, vae_dtypes(vae_dtype))


def read_model_config(text: str) -> ArchitectureConfig:
    """Reads the text of a checkpoint's config.json; without an `architecture` it is I2VGen-XL's.

    Raises:
      InputError: not JSON, an unknown architecture, or an unknown or missing key.
    """
    try:
        name = json.loads(text).get("architecture", StarConfig.architecture)
    except ValueError as error:
        raise InputError(
            f"config.json is not a star_jax model configuration: {error}; convert the checkpoint again"
        ) from error
    return _find(name).config_type.from_json(text)


def _find(name: str) -> type[VideoModel]:
    if name not in ARCHITECTURES:
        raise InputError(f"architecture is {name!r}; choose one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]
