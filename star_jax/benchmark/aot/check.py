"""Compiles a traced program for its devices and reports memory, operations and communication."""

import dataclasses
import re
import time
from dataclasses import dataclass

import jax

from star_jax.benchmark.aot.hlo import ProgramText, Traffic, read_program
from star_jax.ops.flops import traced_flops
from star_jax.ops.platform import targeting

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# The two messages in which the compiler says how much memory it would have needed.
_NEEDED = re.compile(r"(?:Used |required for HLO temporaries \()([\d.]+)([KMGT]?)")


@dataclass(frozen=True)
class CompileReport:
    """A program compiled for one topology.

    Attributes:
      fits: whether the program fits in a device's memory.
      peak_device_bytes: peak memory of one device, including arguments; if the program does not fit, the memory
        that the compiler asked for.
      hbm_bytes: memory of one device.
      tflop_per_step: operations on all devices together, including recomputation; see `traced_flops`.
      compile_seconds: seconds of compilation, without tracing and lowering.
      collectives: collectives of a step within a slice, by kind; empty if the program does not fit.
      kernels: executions of hand-written kernels by name.
      between_slices: traffic of a step over the network between slices, by kind; empty for a single slice.
    """

    fits: bool
    peak_device_bytes: int
    hbm_bytes: int
    tflop_per_step: float
    compile_seconds: float
    collectives: dict[str, Traffic]
    kernels: dict[str, int]
    between_slices: dict[str, Traffic]

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)


def compile_for(traced: jax.stages.Traced, hbm_bytes: int, platform: str = "tpu") -> CompileReport:
    """Lowers and compiles a program traced for a topology, whose devices have `hbm_bytes` each."""
    with targeting(platform):
        lowered = traced.lower()
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = _NEEDED.search(str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or needed is None:
            raise
        peak, found = int(float(needed[1]) * _UNITS[needed[2]]), ProgramText({}, {}, {})
        fits = False
    else:
        peak, found = compiled.memory_analysis().peak_memory_in_bytes, read_program(compiled.as_text())
        fits = peak <= hbm_bytes  # the TPU compiler would have failed, but the GPU compiler does not check
    return CompileReport(
        fits=fits,
        peak_device_bytes=peak,
        hbm_bytes=hbm_bytes,
        tflop_per_step=traced_flops(traced) / 1e12,
        compile_seconds=time.perf_counter() - start,
        collectives=found.collectives,
        kernels=found.kernels,
        between_slices=found.between_slices,
    )
