"""Batches on devices, placed ahead of the step that uses them."""

import collections
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grain


class DevicePrefetch(grain.DatasetIterator):
    """Places batches on devices in a background thread, `depth` ahead.

    The state is that of the last batch handed out, not of those waiting: a resume repeats none and skips none.

    Args:
      batches: the loader; closed with this iterator.
      place: host batch -> device batch, such as `lambda batch: jax.device_put(batch, sharding)`; with several
        processes it calls `jax.make_array_from_process_local_data`.
      depth: batches on the devices beside the one in use.
    """

    def __init__(self, batches: grain.DatasetIterator, place: Callable[[Any], Any], depth: int = 2):
        super().__init__()
        self._batches = batches
        self._place = place
        self._depth = depth
        self._state = batches.get_state()
        self._reset()

    def _reset(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="place-batches")
        self._waiting: collections.deque[Future] = collections.deque()

    def _load(self) -> tuple[Any, dict[str, Any]]:
        try:
            batch = next(self._batches)
        except StopIteration:
            return None, self._batches.get_state()  # a future cannot raise StopIteration
        return self._place(batch), self._batches.get_state()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while len(self._waiting) <= self._depth:
            self._waiting.append(self._thread.submit(self._load))
        batch, self._state = self._waiting.popleft().result()
        if batch is None:
            raise StopIteration
        return batch

    def get_state(self) -> dict[str, Any]:
        return self._state

    def set_state(self, state: dict[str, Any]) -> None:
        self._stop()
        self._reset()
        self._batches.set_state(state)
        self._state = state

    def start_prefetch(self) -> None:
        self._batches.start_prefetch()

    def _stop(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """Ends the thread and the loader's workers."""
        self._stop()
        self._batches.close()
