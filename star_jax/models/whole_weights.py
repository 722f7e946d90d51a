"""Layers whose weights are sharded over devices: each gathers its whole weights as it runs."""

from collections.abc import Callable
from typing import Any, TypeVar

from flax import nnx

from star_jax.ops.remat import rematerialise
from star_jax.parallel.activations import on_several_devices
from star_jax.parallel.weights import gather_weights

Layer = TypeVar("Layer", bound=nnx.Module)


def gathered(layer: Layer) -> Layer:
    """The layer with whole weights on every device; see `star_jax.parallel.weights`."""
    if not on_several_devices():
        return layer
    graphdef, state = nnx.split(layer)
    return nnx.merge(graphdef, gather_weights(state))


def run_block(block: Any, remat: str) -> Callable[..., Any]:
    """The block as a function that gathers its weights and is rematerialised by policy `remat` (`ops.remat`)."""
    return rematerialise(lambda *args: gathered(block)(*args), remat)
