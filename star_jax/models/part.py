"""Single layers of a model with their inputs, for benchmarks of each layer on its own."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from star_jax.models.rngs import InitRngs


@dataclasses.dataclass(frozen=True)
class Part:
    """A layer to measure on its own.

    Attributes:
      name: name in reports, such as `level 0 spatial transformer`.
      build: builds the layer, given `rngs`.
      inputs: shapes and dtypes of the layer's inputs.
      per_forward: about how often one evaluation of the model's networks runs the layer; 0 if it is part of
        another.
      operations: operations whose forms this layer compares; see `star_jax.ops.variants`.
    """

    name: str
    build: Callable[..., nnx.Module]
    inputs: tuple[Any, ...]
    per_forward: int = 0
    operations: tuple[str, ...] = ()

    def abstract(self) -> tuple[Callable[..., jax.Array], tuple[Any, ...]]:
        """The layer as a function of its weights and inputs, and the shapes of both."""
        graphdef, state = nnx.split(nnx.eval_shape(lambda: self.build(rngs=InitRngs(0))))
        params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), nnx.to_pure_dict(state))

        def run(params: Any, *inputs: Any) -> jax.Array:
            return nnx.merge(graphdef, params)(*inputs)

        return run, (params, *self.inputs)


@dataclasses.dataclass(frozen=True)
class LayersToMeasure:
    """The layers that represent a model.

    Attributes:
      operations: smallest layers in which the forms of each operation differ.
      layers: layers that make up an evaluation of the networks and the autoencoder.
    """

    operations: tuple[Part, ...]
    layers: tuple[Part, ...]
