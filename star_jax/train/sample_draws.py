"""Random draws that depend on a sample's position in the data, but not on its batch, its piece or its device."""

from collections.abc import Mapping

import jax

from star_jax.diffusion.noise import frame_noise


def sample_keys(key: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
    """One key per sample [B], from the batch's `index`, int32 [B]."""
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(batch["index"])


def sample_noise(keys: jax.Array, name: str, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal noise, float32 of shape [B, F, h, w, C], with one key per sample."""
    return jax.vmap(lambda key: frame_noise(key, name, (1, *shape[1:]))[0])(keys)
