"""Low-rank updates of trained networks, as trees beside their weights: W + scale A B.

Hu et al., "LoRA" (arXiv 2106.09685), for every kernel of a network, whatever its layer: the [in, out] of a linear
map and the [height, width, in, out] of a convolution, as a matrix of shape [height x width x in, out]. The layers
know nothing of the updates: they are called with the weights that `merge_lora` returns.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.errors import InputError

Tree = dict[Any, Any]

LORA = "lora"  # name of the updates among a run's trained components
DOWN, UP = "lora_a", "lora_b"  # A [rows, rank] and B [rank, out], at the place of the kernel that they update


def lora_shapes(params: Mapping[Any, Any], rank: int) -> Tree:
    """Shapes of the updates of all kernels, float32.

    Args:
      params: shapes of the networks' weights, by component.
      rank: rank of every update.

    Raises:
      InputError: the networks already have low-rank updates.
    """
    shapes: Tree = {}
    for name, part in params.items():
        if isinstance(part, Mapping):
            if inner := lora_shapes(part, rank):
                shapes[name] = inner
        elif name == DOWN:
            raise InputError(
                "model.lora_rank is set, but the networks of this preset have their own low-rank updates, which "
                "are trained without it; set it to 0"
            )
        elif name == "kernel" and len(part.shape) > 1:
            rows, columns = math.prod(part.shape[:-1]), part.shape[-1]
            shapes[DOWN] = jax.ShapeDtypeStruct((rows, rank), jnp.float32)
            shapes[UP] = jax.ShapeDtypeStruct((rank, columns), jnp.float32)
    return shapes


def fresh_lora(shapes: Tree, seed: int) -> Tree:
    """Initial updates, which change nothing: A is uniform in +-1/sqrt(rows), B is zero; NumPy arrays, float32."""
    rng = np.random.default_rng(seed)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1].key == UP:
            return np.zeros(leaf.shape, np.float32)
        bound = 1 / math.sqrt(leaf.shape[0])
        return rng.random(leaf.shape, np.float32) * (2 * bound) - bound

    return jax.tree_util.tree_map_with_path(fill, shapes)


def merge_lora(params: Mapping[Any, Any], lora: Mapping[Any, Any], scale: float) -> Tree:
    """The updated weights, each in its own dtype; the sums are computed in float32.

    Args:
      params: weights by component, NumPy or JAX arrays.
      lora: updates, a tree as in `lora_shapes`; weights without an update stay as they are.
      scale: factor of the updates.
    """
    merged = {
        name: merge_lora(part, lora[name], scale) if name in lora else part for name, part in params.items()
    }
    if DOWN in lora:
        delta = scale * (lora[DOWN].astype(np.float32) @ lora[UP].astype(np.float32))
        kernel = params["kernel"]
        merged["kernel"] = (kernel.astype(np.float32) + delta.reshape(kernel.shape)).astype(kernel.dtype)
    return merged


def lora_scale(rank: int, alpha: float | None) -> float:
    """Factor of the updates: alpha / rank, or 1 without alpha."""
    return 1.0 if alpha is None else alpha / rank
