"""Weights that a small model can be trained from when there is nothing to start from, neither base nor autoencoder.

They do something useful from the first step on: see `fresh_vae` and `fresh_network`.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from star_jax.checkpoints.trees import Tree, flatten, unflatten
from star_jax.config import StarConfig
from star_jax.init.autoencoder import pyramid_leaf
from star_jax.init.network import guess_leaf
from star_jax.models.components import build_component
from star_jax.models.rngs import InitRngs


def fresh_component(sizes: StarConfig, name: str, seed: int) -> Tree:
    """One network's weights, float32, a function of (sizes, name, seed)."""
    kwargs = {"dtype": jnp.float32, "param_dtype": jnp.float32}
    leaves = flatten(nnx.to_pure_dict(nnx.state(build_component(sizes, name, rngs=InitRngs(seed), **kwargs))))
    return unflatten(
        {path: jnp.asarray(_start(sizes, name, path, np.asarray(leaf))) for path, leaf in leaves.items()}
    )


def _start(sizes: StarConfig, name: str, path: str, leaf: np.ndarray) -> np.ndarray:
    if name == "vae":
        return pyramid_leaf(sizes.vae, path, leaf)
    if name in ("unet", "controlnet"):
        return guess_leaf(sizes.unet, path, leaf)
    return leaf
