"""How weights, gradients and optimizer state are sharded over the devices of a mesh.

The axes `fsdp` and `context` split them; `data` replicates them. Clips are split over devices as well, so a layer
needs all of its weights where its clips are: `gather_weights` gathers them layer by layer, and the gradients are
reduced to the same shards. Left to itself, the compiler may split a layer along its weights, and then moves
activations, which are larger.
"""

import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from star_jax.parallel.activations import CONTEXT_AXIS, on_several_devices

_PARAM_AXES = ("fsdp", CONTEXT_AXIS)
_SMALLEST_SPLIT = 2**14  # smaller leaves stay whole on every device


def param_shardings(mesh: Mesh, abstract: Any) -> Any:
    """Shardings of all leaves of weights, of optimizer state, or of a whole TrainState.

    The rule depends only on a leaf's shape, so that Adam's moments are sharded like their weights.
    """
    return jax.tree.map(lambda leaf: NamedSharding(mesh, param_spec(mesh, leaf.shape)), abstract)


def param_spec(mesh: Mesh | AbstractMesh, shape: tuple[int, ...]) -> PartitionSpec:
    """Splits the longest axis that the devices divide (the last of equals); small leaves stay whole."""
    if is_small(shape):
        return PartitionSpec()
    for axes in (_PARAM_AXES, _PARAM_AXES[:1], _PARAM_AXES[1:]):
        shards = math.prod(mesh.shape[axis] for axis in axes)
        fitting = [(size, position) for position, size in enumerate(shape) if size % shards == 0]
        if shards > 1 and fitting:
            spec: list[Any] = [None] * len(shape)
            spec[max(fitting)[1]] = axes
            return PartitionSpec(*spec)
    return PartitionSpec()


def is_small(shape: tuple[int, ...]) -> bool:
    """Whether an array stays whole on every device of any mesh."""
    return math.prod(shape) < _SMALLEST_SPLIT


def constrain_params(tree: Any) -> Any:
    """Shards gradients like their weights, in a program traced under `jax.set_mesh`."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, param_spec(mesh, x.shape)), tree)


def gather_weights(tree: Any) -> Any:
    """Gathers sharded weights on every device; the gradients are sharded like the weights.

    Call it inside the rematerialised function, so that the copies live only while a layer runs.
    """
    return jax.tree.map(_gather, tree) if on_several_devices() else tree


@jax.custom_vjp
def _gather(x: jax.Array) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, PartitionSpec())


def _gather_forward(x: jax.Array) -> tuple[jax.Array, None]:
    return _gather(x), None


def _gather_backward(_: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (constrain_params(gradient),)


_gather.defvjp(_gather_forward, _gather_backward)
