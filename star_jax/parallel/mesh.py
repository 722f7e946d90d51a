"""The device mesh, and the rules that place batches on it.

Axes: `data` (replicas), `fsdp` (splits weights and state), `context` (splits the frames of a clip). A batch is
split over `data` and `fsdp`; weights and state over `fsdp` and `context`, so that only `data` replicates them. TPU
slices, which are connected by a slow network, are replicas: only `data` crosses that network, with one sum of
gradients per step. `star_jax.parallel.weights` shards weights, and `star_jax.parallel.activations` shards
activations.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from star_jax.errors import InputError
from star_jax.parallel.activations import BATCH_AXES, CONTEXT_AXIS

AXES = (*BATCH_AXES, CONTEXT_AXIS)
_ACROSS = "dcn_data"
_CLIP_NDIM = 5  # [B, F, H, W, C]


@dataclass(frozen=True)
class MeshConfig:
    """How the devices of a slice are arranged, and the number of slices.

    One of `data`, `fsdp` and `context` may be -1, which takes all remaining devices of a slice.

    Attributes:
      data: replicas of the weights, each with its share of the batch.
      fsdp: devices that split weights and optimizer state, and the batch, too.
      context: devices that split the frames of a clip (and the weights).
      dcn_data: slices, or other groups of machines with a slow network between them. Each holds `data` replicas of
        the weights, so that the mesh's axis `data` is dcn_data x data long. -1 takes the slices that the TPUs form;
        GPUs and CPUs count as one slice. A larger number divides those in the order of their processes.
    """

    data: int = -1
    fsdp: int = 1
    context: int = 1
    dcn_data: int = -1

    def __post_init__(self):
        for name, size in dataclasses.asdict(self).items():
            if size < 1 and size != -1:
                raise InputError(
                    f"mesh.{name} is {size}; choose a number of devices, or -1 for all that are left"
                )
        sizes = self.within_slice()
        if list(sizes.values()).count(-1) > 1:
            raise InputError(f"mesh is {sizes}; only one axis can be -1 (all devices that are left)")

    def within_slice(self) -> dict[str, int]:
        """Axis -> its size within a slice, or -1."""
        return {axis: getattr(self, axis) for axis in AXES}


def parse_mesh(text: str) -> MeshConfig:
    """Reads axes such as `data=2,context=4`; axes left out are 1 (`dcn_data`: all slices).

    Raises:
      InputError: not of that form, or an unknown axis.
    """
    sizes = dict.fromkeys(AXES, 1) | {_ACROSS: -1}
    for part in text.split(","):
        match = re.fullmatch(r"(\w+)=(-?\d+)", part.strip())
        if not match or match[1] not in sizes:
            raise InputError(f"mesh is {text!r}; give axes of {', '.join(sizes)}, such as data=2,context=4")
        sizes[match[1]] = int(match[2])
    return MeshConfig(**sizes)


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Arranges the devices of all processes as data x fsdp x context; slices follow each other along `data`.

    Raises:
      InputError: the product of the axes is not the number of devices of a slice, or the number of slices differs.
    """
    slices = _slices(list(jax.devices() if devices is None else devices), config.dcn_data)
    num_devices = len(slices[0])
    sizes = config.within_slice()
    given = math.prod(size for size in sizes.values() if size != -1)
    if num_devices % given or (-1 not in sizes.values() and given != num_devices):
        text = " x ".join(f"{name}={size}" for name, size in sizes.items())
        where = "there are" if len(slices) == 1 else f"each of {len(slices)} slices has"
        raise InputError(
            f"mesh is {text}, but {where} {num_devices} devices; set one of mesh.data, mesh.fsdp, mesh.context "
            "to -1, or their product to the number of devices"
        )
    shape = tuple(num_devices // given if sizes[axis] == -1 else sizes[axis] for axis in AXES)
    # This follows jax.make_mesh, which does not know slices.
    arranged = [mesh_utils.create_device_mesh(shape, each, allow_split_physical_axes=True) for each in slices]
    return Mesh(np.concatenate(arranged), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _slices(devices: list[Any], count: int) -> list[list[Any]]:
    """Groups devices by slice; devices without slices are divided into `count` groups."""
    numbers = {d: getattr(d, "slice_index", 0) if d.platform == "tpu" else 0 for d in devices}
    found = max(numbers.values()) + 1
    if found > 1 and count not in (-1, found):
        raise InputError(
            f"mesh.dcn_data is {count}, but the devices form {found} slices; set it to {found} or -1"
        )
    if found > 1:
        return [[d for d in devices if numbers[d] == number] for number in range(found)]
    size, left = divmod(len(devices), max(count, 1))
    if left or not size:
        raise InputError(f"mesh.dcn_data is {count}, but there are {len(devices)} devices; choose a divisor")
    return [devices[start : start + size] for start in range(0, len(devices), size)]


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding that puts the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_shardings(mesh: Mesh, abstract_batch: dict[str, Any]) -> dict[str, NamedSharding]:
    """Shardings that split samples over `data` and `fsdp`, and frames of clips [B, F, H, W, C] over `context`.

    Frames are only split where `context` divides their number.

    Raises:
      InputError: the batch size is not a multiple of data x fsdp.
    """
    return {name: NamedSharding(mesh, _batch_spec(mesh, leaf.shape)) for name, leaf in abstract_batch.items()}


def _batch_spec(mesh: Mesh, shape: tuple[int, ...]) -> PartitionSpec:
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if shape[0] % shards:
        raise InputError(
            f"train.batch_size is {shape[0]}, but the mesh splits batches over {shards} devices (data x fsdp); "
            "make it a multiple, or give more devices to mesh.context"
        )
    if len(shape) == _CLIP_NDIM and shape[1] % mesh.shape[CONTEXT_AXIS] == 0:
        return PartitionSpec(BATCH_AXES, CONTEXT_AXIS)
    return PartitionSpec(BATCH_AXES)


@dataclasses.dataclass(frozen=True)
class ProcessShare:
    """Which samples of a batch a process loads.

    Processes that hold different frames of the same clips load the same samples.

    Attributes:
      index, count: the loader's share (`ClipLoader(process_index=index, process_count=count)`).
      start, size: first row and number of rows in the global batch.
    """

    index: int
    count: int
    start: int
    size: int


def process_share(mesh: Mesh, batch_size: int) -> ProcessShare:
    """The share of this process.

    Raises:
      InputError: the processes do not hold equal and disjoint ranges of samples.
    """
    sharding = NamedSharding(mesh, _batch_spec(mesh, (batch_size,)))
    rows: dict[int, set[tuple[int, int]]] = {}
    indices: Mapping[jax.Device, Any] = sharding.devices_indices_map((batch_size,))
    for device, (index,) in indices.items():
        start, stop, _ = index.indices(batch_size)
        rows.setdefault(device.process_index, set()).add((start, stop))
    spans = {process: (min(parts)[0], max(parts)[1]) for process, parts in rows.items()}
    distinct = sorted(set(spans.values()))
    size = batch_size // len(distinct)
    if distinct != [(start, start + size) for start in range(0, batch_size, size)]:
        raise InputError(
            f"mesh {dict(mesh.shape)} gives the processes unequal or overlapping samples {distinct}; choose "
            "mesh.context so that it divides the number of devices of a process, or is a multiple of it"
        )
    mine = spans[jax.process_index()]
    return ProcessShare(distinct.index(mine), len(distinct), mine[0], size)


def place_batch(
    batch: dict[str, np.ndarray], shardings: dict[str, NamedSharding], share: ProcessShare
) -> dict[str, jax.Array]:
    """Puts this process's samples on its devices, as parts of the global batch."""

    def place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
        def part(index: Any) -> np.ndarray:  # slices of the global batch
            start, stop, _ = index[0].indices(share.size * share.count)
            return array[(slice(start - share.start, stop - share.start), *index[1:])]

        shape = (share.size * share.count, *array.shape[1:])
        return jax.make_array_from_callback(shape, sharding, part)

    return {name: place(np.asarray(array), shardings[name]) for name, array in batch.items()}
