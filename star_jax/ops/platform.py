"""Platform that programs are traced for: that of this process, or one to compile for ahead of time."""

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from star_jax.errors import InputError

COUNTED = "counted"  # stands for no platform: programs are traced in their plainest form, to count operations

# Part of the key of JAX's caches, so that a program traced for one platform is traced again for another.
_target = jax.make_user_context(None)


def target_platform() -> str:
    """The platform that programs are being traced for: the default backend's, or the one set by `targeting`."""
    return _target.value or jax.default_backend()


@contextlib.contextmanager
def targeting(platform: str) -> Iterator[None]:
    """Traces for a platform other than the one this process runs on (ahead-of-time compilation for TPUs)."""
    with _target(platform):
        yield


def resolve_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The type that networks compute in: `auto` is bfloat16 on TPUs and GPUs, float32 on a CPU.

    Raises:
      InputError: not a floating-point type that the networks run in.
    """
    if isinstance(dtype, str) and dtype == "auto":
        return jnp.dtype(jnp.float32 if target_platform() == "cpu" else jnp.bfloat16)
    try:
        resolved = jnp.dtype(dtype)
    except TypeError:  # no dtype of that name
        resolved = None
    if resolved is None or str(resolved) not in ("float32", "bfloat16", "float16"):
        raise InputError(f"dtype is {dtype}; choose one of auto, float32, bfloat16, float16")
    return resolved


def vae_dtypes(dtype: str | tuple[jnp.dtype, jnp.dtype]) -> tuple[jnp.dtype, jnp.dtype]:
    """The dtypes in which an autoencoder's encoder and decoder compute.

    `auto` is float32, but float16 for the decoder on a GPU, as in the released system, which decodes under autocast
    and encodes in float32. A pair is taken as it is.

    Raises:
      InputError: not a floating-point type that the networks run in.
    """
    if isinstance(dtype, tuple):
        return dtype
    if dtype == "auto":
        decoder = jnp.float16 if target_platform() == "gpu" else jnp.float32
        return jnp.dtype(jnp.float32), jnp.dtype(decoder)
    return (resolve_dtype(dtype),) * 2
