"""Placement of a benchmark's weights and inputs: on one device, or on a mesh as in inference."""

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
    """The devices of a benchmark: those of a mesh, or the first device without one."""

    mesh: Mesh | None = None

    @classmethod
    def of(cls, config: MeshConfig | None) -> "Placement":
        """A mesh of all devices, or one device where `config` is None.

        Raises:
          InputError: the product of the axes is not the number of devices.
        """
        return cls(None if config is None else make_mesh(config))

    @property
    def num_devices(self) -> int:
        return 1 if self.mesh is None else self.mesh.size

    def context(self) -> contextlib.AbstractContextManager:
        """A context in which programs are traced for the mesh."""
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    def params(self, abstract: Tree) -> Tree:
        """Shapes of weights with shardings: split if `fsdp` is more than 1, else replicated on every device."""
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
        """Places an input [B, ...] or clips [B, F, H, W, C], and splits B and F where the devices divide them."""
        if self.mesh is None:
            return array
        shards = self.mesh.shape
        batch = BATCH_AXES if array.shape[0] % (shards["data"] * shards["fsdp"]) == 0 else None
        frames = CONTEXT_AXIS if array.ndim == 5 and array.shape[1] % shards[CONTEXT_AXIS] == 0 else None
        spec = (batch, frames)[: array.ndim]
        return jax.device_put(array, NamedSharding(self.mesh, PartitionSpec(*spec)))
