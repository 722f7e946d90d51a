"""Weights from which a small model can be trained from scratch, without a base network or an autoencoder.

They do something useful from the first step on; see `VideoModel.start_leaf`.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from star_jax.checkpoints.trees import Tree, flatten, unflatten
from star_jax.models.rngs import InitRngs
from star_jax.models.video_model import VideoModel


def fresh_component(model: VideoModel, name: str, seed: int) -> Tree:
    """Initial weights of one component, float32; they depend only on sizes, name and seed."""
    kwargs = {"dtype": jnp.float32, "param_dtype": jnp.float32}
    leaves = flatten(nnx.to_pure_dict(nnx.state(model.build(name, rngs=InitRngs(seed), **kwargs))))
    return unflatten(
        {path: jnp.asarray(model.start_leaf(name, path, np.asarray(leaf))) for path, leaf in leaves.items()}
    )
