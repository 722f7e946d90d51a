"""How the tests compile: quickly, as most of their programs run a few times on a few pixels."""

import gc
import os

# Of the compiler's two ways to make a fused kernel, and of one part or many for its code, the quicker ones: a
# training step compiles in three fifths of the time.
QUICK_FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def collect_garbage_seldom() -> None:
    """Programs as they are traced are many small objects, and few are garbage."""
    gc.set_threshold(50_000, 20, 50)


def with_devices(count: int) -> dict[str, str]:
    """The environment of a process that sees `count` devices, which are this machine's processor."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags.strip()}


def share_programs_between_processes() -> None:
    """Lets the processes of one run use each other's compiled programs; set JAX_SHARE_BINARY_BETWEEN_HOSTS=1, too.

    On CPUs, JAX's key of a program has the number of the process in it. Without it, the others find what the first
    process compiled.
    """
    from jax._src import cache_key

    cache_key._hash_accelerator_config = lambda digest, devices: None
