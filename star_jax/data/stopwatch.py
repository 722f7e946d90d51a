"""CPU time of each stage, for the loader's report."""

import collections
import contextlib
import time
from collections.abc import Iterator


class Stopwatch:
    """Adds up the CPU seconds of named stages; stages must not nest.

    CPU time, unlike wall time, does not depend on what else runs on the machine.

    Attributes:
      seconds: stage name -> CPU seconds of this process.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = collections.defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds[stage] += time.process_time() - start
