"""Where a benchmark's weights and inputs lie: on one device, or on a mesh as inference uses it."""

import contextlib
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from star_jax.parallel.activations import BATCH_AXES, CONTEXT_AXIS
from star_jax.parallel.mesh import MeshConfig, make_mesh, replicated
from star_jax.parallel.weights import param_shardings

Tree = dict[str, Any]


@dataclass(frozen=True)
class Placement:
    """The devices of a benchmark; without a mesh, the first one."""

    mesh: Mesh | None = None

    @classmethod
    def of(cls, config: MeshConfig | None) -> "Placement":
        """Places on a mesh of all devices.

        Raises:
          InputError: the axes do not multiply to the number of devices.
        """
        return cls(None if config is None else make_mesh(config))

    @property
    def num_devices(self) -> int:
        return 1 if self.mesh is None else self.mesh.size

    def context(self) -> contextlib.AbstractContextManager:
        """In it, programs are traced for the mesh."""
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    def params(self, abstract: Tree) -> Tree:
        """Shapes of weights with shardings: whole on every device, or split where `fsdp` is more than 1."""
        if self.mesh is None:
            return abstract
        split = param_shardings(self.mesh, abstract)
        everywhere = replicated(self.mesh)
        whole = jax.tree.map(lambda _: everywhere, abstract)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            abstract,
            split if self.mesh.shape["fsdp"] > 1 else whole,
        )

    def inputs(self, array: jax.Array) -> jax.Array:
        """An input with the batch first, of clips with the frames second, split where the devices divide it."""
        if self.mesh is None:
            return array
        shards = self.mesh.shape
        batch = BATCH_AXES if array.shape[0] % (shards["data"] * shards["fsdp"]) == 0 else None
        frames = CONTEXT_AXIS if array.ndim == 5 and array.shape[1] % shards[CONTEXT_AXIS] == 0 else None
        spec = (batch, frames)[: array.ndim]
        return jax.device_put(array, NamedSharding(self.mesh, PartitionSpec(*spec)))
