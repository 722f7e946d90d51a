"""TPU topologies, and GPUs, as devices to compile for on a machine without them."""

import importlib.util
import os
from typing import Any

from star_jax.benchmark.aot.gpu import GPUS, gpu_devices
from star_jax.errors import InputError, RunError

GIB = 2**30
# Memory of one JAX device that programs can use, as the compiler enforces it, by the kind in the topology's name.
HBM_GIB = {"v5e": 15.75, "v5p": 95.74, "v6e": 31.25}
_EXAMPLES = "v5e:4x4, v5p:4x4x4, v6e:8x8, or h100:8 and h200:1"
# Environment in which the TPU compiler's library runs without a TPU: no metadata server, no lock file.
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
# The lowest effort compiles in a tenth of the time, with nearly the same peak memory.
_QUICK = {"JAX_EXEC_TIME_OPTIMIZATION_EFFORT": "-1.0", "JAX_MEMORY_FITTING_EFFORT": "-1.0"}


def prepare_environment(*, quick: bool = True) -> None:
    """Sets the compiler's environment variables; call it before jax is imported.

    Args:
      quick: whether to compile with the lowest optimisation effort instead of the default one of a run on TPUs.
    """
    for name, value in (_ENVIRONMENT | (_QUICK if quick else {})).items():
        os.environ.setdefault(name, value)


def topology_devices(name: str, num_slices: int = 1) -> list[Any]:
    """The devices of a TPU topology (see `tpu_devices`), or GPUs of one host such as `h100:8`.

    Raises:
      InputError: unknown topology.
      RunError: the compiler is not installed.
    """
    kind, _, shape = name.partition(":")
    if kind not in GPUS:
        return tpu_devices(name, num_slices)
    if num_slices != 1:
        raise InputError(f"--num-slices is {num_slices}; only TPUs have slices, so leave it out for {name}")
    return gpu_devices(kind, shape)


def platform_of(name: str) -> str:
    """Platform of a topology: `tpu` or `gpu`."""
    return "gpu" if name.partition(":")[0] in GPUS else "tpu"


def tpu_devices(name: str, num_slices: int = 1) -> list[Any]:
    """The devices of a TPU topology such as `v5e:4x4`, or `v6e:1x1` for one chip, to build a mesh from.

    Args:
      name: kind and shape of a slice.
      num_slices: number of slices of that shape, with the slower network of a data centre between them.

    Raises:
      InputError: unknown topology.
      RunError: the TPU compiler is not installed.
    """
    kind, _, shape = name.partition(":")
    if kind not in HBM_GIB:
        kinds = ", ".join((*HBM_GIB, *GPUS))
        raise InputError(
            f"topology is {name!r}; expected KIND:SHAPE, where KIND is one of {kinds}, for example {_EXAMPLES}"
        )
    if num_slices < 1:
        raise InputError(f"--num-slices is {num_slices}; choose at least 1")
    import jax
    from jax.experimental import topologies

    if importlib.util.find_spec("libtpu") is None:
        raise RunError(f'the TPU compiler is not installed; pip install "jax[tpu]=={jax.__version__}"')
    # A host has four chips, except for single chips (v5litepod-1, v6e-1).
    options: dict[str, Any] = {"num_slices": num_slices} if num_slices > 1 else {}
    if set(shape.split("x")) == {"1"}:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise InputError(f"topology is {name!r} ({reason}); choose one such as {_EXAMPLES}") from error


def hbm_bytes(name: str) -> int:
    """Memory of one device of a topology, in bytes."""
    kind = name.partition(":")[0]
    return GPUS[kind].memory_bytes if kind in GPUS else int(HBM_GIB[kind] * GIB)
