"""Equal layers as one module: their weights are stacked along a first axis, and one `lax.scan` runs them."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from star_jax.models.rngs import InitRngs
from star_jax.models.whole_weights import gathered
from star_jax.ops.remat import rematerialise


def stack_layers(make: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs) -> nnx.Module:
    """Stacks `count` layers into one module: every parameter is [count, ...].

    Args:
      make: builds one layer with fresh weights.
      count: number of layers.
      rngs: the layers' weights are drawn from its `params` stream.
    """
    layer = nnx.eval_shape(lambda: make(InitRngs(0)))
    keys = jax.random.split(rngs.params(), count)
    weights = jax.vmap(lambda key: nnx.to_pure_dict(nnx.state(make(InitRngs(key)))))(keys)
    state = nnx.state(layer)
    nnx.replace_by_pure_dict(state, weights)
    nnx.update(layer, state)
    return layer


def scan_layers(layers: nnx.Module, apply: Callable[[Any, Any], Any], x: Any, *, remat: str = "none") -> Any:
    """Runs a stack, x = apply(layer, x) for one layer after the other; `apply` is traced once.

    Args:
      layers: a stack from `stack_layers`.
      apply: applies one layer to the activations, which keep their shapes.
      x: activations, any pytree of arrays.
      remat: what the backward pass keeps of each layer; see `star_jax.ops.remat`.
    """
    graphdef, state = nnx.split(layers)

    def step(x, weights):
        def layer(weights, x):
            return apply(gathered(nnx.merge(graphdef, weights)), x)

        return rematerialise(layer, remat)(weights, x), None

    return jax.lax.scan(step, x, nnx.to_pure_dict(state))[0]
