"""NVIDIA GPUs as devices to compile for, on a machine without one.

JAX's CUDA plugin compiles for a GPU from its description. What needs a real GPU is missing: the choice among
kernels of cuBLAS and cuDNN by timing, and their scratch memory.
"""

import importlib.util
from dataclasses import dataclass
from typing import Any

from star_jax.errors import InputError, RunError


@dataclass(frozen=True)
class Gpu:
    """Properties of a GPU that the compiler needs, as the driver reports them.

    Attributes:
      device_kind: JAX's name for the GPU.
      memory_bytes: device memory.
      bandwidth: bytes per second of device memory.
      l2_bytes: size of the second-level cache.
    """

    device_kind: str
    memory_bytes: int
    bandwidth: int
    l2_bytes: int


GPUS = {
    "h100": Gpu("NVIDIA H100 80GB HBM3", 84_978_434_048, 3_352_320_000_000, 52_428_800),
    "h200": Gpu("NVIDIA H200", 150_110_011_392, 4_917_000_000_000, 62_914_560),
}
# Both are the same chip.
_TARGET = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability {{ major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES }}
  memory_bandwidth: {bandwidth} l2_cache_size: {l2} device_memory_size: {memory}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
runtime_version {{ major: 13 }}
device_description_str: "{kind}"
"""


def gpu_devices(kind: str, shape: str) -> list[Any]:
    """Devices of one host, such as the 8 of `h100:8`.

    Raises:
      InputError: `shape` is not a number of GPUs.
      RunError: JAX's CUDA plugin is not installed.
    """
    if not shape.isdecimal() or int(shape) < 1:
        raise InputError(
            f"topology is '{kind}:{shape}'; expected the number of GPUs, such as {kind}:1 or {kind}:8"
        )
    import jax
    from jax.experimental import topologies

    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        raise RunError(f'the CUDA compiler is not installed; pip install "jax[cuda13]=={jax.__version__}"')
    gpu = GPUS[kind]
    target = _TARGET.format(
        bandwidth=gpu.bandwidth, l2=gpu.l2_bytes, memory=gpu.memory_bytes, kind=gpu.device_kind
    )
    topology = topologies.get_topology_desc(
        "", platform="cuda", topology=f"1x1x{shape}", target_config=target
    )
    return list(topology.devices)
