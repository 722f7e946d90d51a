"""How weights, gradients and optimizer state lie on the devices of a mesh.

Devices of the axes `fsdp` and `context` share them; `data` replicates them. Clips are split over devices as well,
so a layer needs all of its weights where its clips are: `gather_weights` fetches them layer by layer, and sums
gradients where they belong. Left to itself, the compiler may split a layer as its weights lie, and then moves
activations, which are larger than weights.
"""

import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from star_jax.parallel.activations import CONTEXT_AXIS, on_several_devices

_PARAM_AXES = ("fsdp", CONTEXT_AXIS)
_SMALLEST_SPLIT = 2**14  # smaller leaves stay whole on every device


def param_shardings(mesh: Mesh, abstract: Any) -> Any:
    """A sharding for every leaf of weights, of optimizer state, or of a whole TrainState.

    The rule looks at a leaf's shape only, so that the moments of Adam lie as their weights do.
    """
    return jax.tree.map(lambda leaf: NamedSharding(mesh, param_spec(mesh, leaf.shape)), abstract)


def param_spec(mesh: Mesh | AbstractMesh, shape: tuple[int, ...]) -> PartitionSpec:
    """Splits the last of the longest axes that the devices divide; small leaves stay whole."""
    if math.prod(shape) < _SMALLEST_SPLIT:
        return PartitionSpec()
    for axes in (_PARAM_AXES, _PARAM_AXES[:1], _PARAM_AXES[1:]):
        shards = math.prod(mesh.shape[axis] for axis in axes)
        fitting = [(size, position) for position, size in enumerate(shape) if size % shards == 0]
        if shards > 1 and fitting:
            spec: list[Any] = [None] * len(shape)
            spec[max(fitting)[1]] = axes
            return PartitionSpec(*spec)
    return PartitionSpec()


def constrain_params(tree: Any) -> Any:
    """Lays gradients, within a program traced under `jax.set_mesh`, as their weights lie."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, param_spec(mesh, x.shape)), tree)


def gather_weights(tree: Any) -> Any:
    """Puts whole copies of weights that are split over devices on each of them; gradients lie as weights do.

    Call it within what is rematerialised, so that the copies live as long as a layer runs.
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
