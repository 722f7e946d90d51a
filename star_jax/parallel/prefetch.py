"""Batches on devices, placed ahead of the step that uses them."""

from collections.abc import Callable, Iterator
from typing import Any

import grain


class _Batches(grain.IterDataset):
    """A loader as the dataset that grain's transformations begin with."""

    def __init__(self, loader: grain.DatasetIterator):
        super().__init__()
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        return self._loader


def prefetch_to_devices(
    loader: grain.DatasetIterator, place: Callable[[Any], Any], buffer_size: int = 1
) -> grain.DatasetIterator:
    """Places batches on devices in a background thread.

    The iterator's state is that of the loader after the last batch handed out, not of those waiting: a resume
    repeats none and skips none. Closing it ends the thread and closes the loader.

    Args:
      loader: host batches.
      place: host batch -> device batch, such as `lambda batch: jax.device_put(batch, sharding)`; with several
        processes it calls `jax.make_array_from_process_local_data`.
      buffer_size: batches that wait. One more is in the thread's hands, so that `buffer_size` + 1 are on the
        devices beside the one in use.
    """
    placed = _Batches(loader).map(place)
    return iter(grain.experimental.ThreadPrefetchIterDataset(placed, prefetch_buffer_size=buffer_size))
