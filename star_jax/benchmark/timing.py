"""Times a program: compilation, then a warm-up step, then the median of steps that each wait for the device."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from star_jax.benchmark.quiet import quiet


@dataclass(frozen=True)
class Timing:
    """Seconds of each step after the warm-up, and of the work before.

    Attributes:
      steps: seconds of every measured step.
      trace_seconds: seconds of tracing and lowering.
      compile_seconds: seconds of compilation, or of reading its result from a cache.
      first_seconds: seconds of the warm-up step.
    """

    steps: tuple[float, ...]
    trace_seconds: float
    compile_seconds: float
    first_seconds: float

    @property
    def median(self) -> float:
        return statistics.median(self.steps)

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median."""
        return (max(self.steps) - min(self.steps)) / self.median

    def report(self) -> dict[str, Any]:
        return {
            "seconds_per_step": self.median,
            "spread": self.spread,
            "step_seconds": list(self.steps),
            "trace_seconds": self.trace_seconds,
            "compile_seconds": self.compile_seconds,
            "first_step_seconds": self.first_seconds,
        }


def time_program(
    program: jax.stages.Wrapped, args: Sequence[Any], *, repeats: int
) -> tuple[Timing, jax.stages.Compiled]:
    """Compiles and times a jitted function.

    Args:
      program: function from `jax.jit`, without donated arguments (they would be gone after the first step).
      args: arguments on the device.
      repeats: number of steps to measure, at least 1.

    Returns:
      The times, and the compiled program, which knows its FLOPs and memory.
    """
    start = time.perf_counter()
    lowered = program.lower(*args)
    traced = time.perf_counter()
    compiled = lowered.compile()
    ready = time.perf_counter()
    with quiet():
        first = _seconds(compiled, args)
        steps = tuple(_seconds(compiled, args) for _ in range(repeats))
    return Timing(steps, traced - start, ready - traced, first), compiled


def _seconds(compiled: jax.stages.Compiled, args: Sequence[Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(compiled(*args))
    return time.perf_counter() - start
