"""Weights that a small model can be trained from when there is nothing to start from, neither base nor autoencoder.

Three changes to the layers' own start, each of which only says sooner what training finds out anyway:

- Residual branches of the autoencoder end in zeros, as those of the UNet do: a fresh network is nearly linear.
- The first convolutions have biases of alternating sign, larger than the signal. Group norms divide by a deviation;
  with a constant in it, they leave a picture's contrast in.
- The ControlNet's zero convolutions, which protect a trained base from a fresh ControlNet, start open: there is
  nothing to protect, and two of them in a row pass no gradient.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from star_jax.config import StarConfig
from star_jax.models.components import build_component
from star_jax.models.rngs import InitRngs
from star_jax.orbax_trees import Tree, flatten, unflatten

_BRANCH_ENDS = ("conv2", "to_out")
_BIAS = 3.0


def fresh_component(sizes: StarConfig, name: str, seed: int) -> Tree:
    """One network's weights, float32, a function of (sizes, name, seed)."""
    kwargs = {"dtype": jnp.float32, "param_dtype": jnp.float32}
    leaves = flatten(nnx.to_pure_dict(nnx.state(build_component(sizes, name, rngs=InitRngs(seed), **kwargs))))
    return unflatten({path: _start(name, path, leaf, seed) for path, leaf in leaves.items()})


def _start(name: str, path: str, leaf: jax.Array, seed: int) -> jax.Array:
    if path.endswith("conv_in/bias"):
        return _BIAS * (1.0 - 2.0 * (jnp.arange(len(leaf)) % 2))
    if name == "vae" and any(part in _BRANCH_ENDS for part in path.split("/")):
        return jnp.zeros_like(leaf)
    if name == "controlnet" and path == "controlnet_cond_embedding/kernel":
        return nnx.initializers.lecun_normal()(jax.random.key(seed), leaf.shape)
    if name == "controlnet" and path.startswith("controlnet_") and path.endswith("kernel"):
        return jnp.broadcast_to(jnp.eye(leaf.shape[-1]), leaf.shape)
    return leaf
