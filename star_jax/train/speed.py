"""Measures the speed of a run, and how it spends time and memory."""

import resource

import jax

from star_jax.parallel.peaks import mfu
from star_jax.train.stages import SHARES, Stages
from star_jax.train.start import RunConfig

# Metrics that are measured and therefore differ between two otherwise identical runs.
MEASURED = frozenset(
    {
        "seconds_per_step",
        "data_wait_seconds",
        "clips_per_second",
        "frames_per_second",
        "mfu",
        "host_memory_gib",
        "device_memory_gib",
        *SHARES.values(),
    }
)


class Speed:
    """Means over the steps between two lines of the log, without compilation and validation.

    Args:
      config: configuration of the run.
      stages: times of the stages of the loop.
      flops: operations of one step on all devices together; None if they are not known.
    """

    def __init__(self, config: RunConfig, stages: Stages, flops: float | None):
        self._clips, self._frames = config.train.batch_size, config.data.num_frames
        self._stages, self._flops = stages, flops
        self._count, self._seconds, self._waited = 0, 0.0, 0.0

    def add(self, seconds: float, waited: float) -> None:
        """Counts a step, its seconds, and the seconds of these spent waiting for the batch."""
        self._count += 1
        self._seconds += seconds
        self._waited += waited

    def take(self) -> dict[str, float]:
        """The metrics since the last call; shares of the time are since the start of the process."""
        seconds, waited = self._seconds / self._count, self._waited / self._count
        self._count, self._seconds, self._waited = 0, 0.0, 0.0
        share = None if self._flops is None else mfu(self._flops / seconds, num_devices=jax.device_count())
        return {
            "seconds_per_step": seconds,
            "data_wait_seconds": waited,
            "clips_per_second": self._clips / seconds,
            "frames_per_second": self._clips * self._frames / seconds,
            **({} if share is None else {"mfu": share}),
            **self._stages.shares(),
            **_memory(),
        }


def _memory() -> dict[str, float]:
    """Peak memory of this process, and of its fullest device if devices report it."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    known = [peak for peak in peaks if peak is not None]
    return {
        "host_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        **({"device_memory_gib": max(known) / 2**30} if known else {}),
    }
