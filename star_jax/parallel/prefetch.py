"""Prefetch: batches are placed on devices ahead of the step that uses them."""

from collections.abc import Callable, Iterator
from typing import Any

import grain


class _Batches(grain.IterDataset):
    """Wraps a loader as a dataset, which grain's transformations need."""

    def __init__(self, loader: grain.DatasetIterator):
        super().__init__()
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        return self._loader


def prefetch_to_devices(
    loader: grain.DatasetIterator, place: Callable[[Any], Any], buffer_size: int = 1
) -> grain.DatasetIterator:
    """Places batches on devices in a background thread.

    The iterator's state is that of the loader after the last batch returned, not after those still in the buffer,
    so that a resumed run repeats and skips no batch. Closing the iterator ends the thread and closes the loader.

    Args:
      loader: iterator over host batches.
      place: host batch -> device batch, such as `lambda batch: jax.device_put(batch, sharding)`; with several
        processes it calls `jax.make_array_from_process_local_data`.
      buffer_size: batches in the buffer. The thread holds one more, so that `buffer_size` + 1 batches are on the
        devices besides the one in use.
    """
    placed = _Batches(loader).map(place)
    return iter(grain.experimental.ThreadPrefetchIterDataset(placed, prefetch_buffer_size=buffer_size))
