"""The loader: a grain MapDataset from records to batches, exactly resumable, sharded by process."""

import dataclasses
import hashlib
import logging
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags

from star_jax.data.clips import load_element
from star_jax.data.config import DataConfig
from star_jax.data.records import BadClipError, Element
from star_jax.data.sources import open_source
from star_jax.errors import RunError

logger = logging.getLogger(__name__)

# Share of bad files is judged once this many elements were tried (or all of a smaller shard).
_JUDGED_AFTER = 50


@dataclasses.dataclass(frozen=True)
class _Bad:
    """Travels through the workers in place of an element, so that positions do not shift."""

    key: str
    reason: str


@dataclasses.dataclass(frozen=True)
class _Load:
    """Place in a process's share -> element; picklable, as workers get a copy.

    Attributes:
      numbers: record number by position, of all processes together.
      batch_size: clips in a batch of this process.
    """

    records: Any
    config: DataConfig
    numbers: grain.MapDataset
    batch_size: int
    process_index: int
    process_count: int

    def __len__(self) -> int:
        """Elements in the share."""
        batches, rest = divmod(len(self.numbers), self.batch_size * self.process_count)
        of_last = rest - self.process_index * self.batch_size
        return batches * self.batch_size + min(max(of_last, 0), self.batch_size)

    def __call__(self, place: int) -> Element | _Bad:
        batch, row = divmod(place, self.batch_size)
        position = (batch * self.process_count + self.process_index) * self.batch_size + row
        record = self.records[self.numbers[position]]
        try:
            return load_element(record, self.config, position)
        except BadClipError as error:
            return _Bad(record.key, str(error))


def _start_worker(worker: int, num_workers: int) -> None:
    cv2.setNumThreads(1)  # the workers are the parallelism


class ClipLoader(grain.DatasetIterator):
    """Iterates over batches of one process.

    The element at a position is a function of (seed, position) alone, and the state is the position: a resume
    may change the number of workers, threads and buffers and still gets the very same batches. Elements are
    dealt to processes by batches, so that these, one after the other, are the batch of one process (until a clip is
    bad); that order is part of the state, so a change of process count is refused.

    Batches: `gt` uint8 [B, F, H, W, 3], `lq` uint8 [B, F, h, w, 3], `text` and `key` lists of B strings,
    `index` int64 [B]. Fewer than B elements at the end of the last epoch are dropped.

    Args:
      config: the data.
      batch_size: B, the batch size of this process.
      process_index, process_count: this process takes the share `process_index` of `process_count` of the elements.

    Attributes:
      bad: key -> reason of every record skipped since the start of this process.

    Raises:
      InputError: no usable source there.
    """

    def __init__(
        self, config: DataConfig, *, batch_size: int, process_index: int = 0, process_count: int = 1
    ):
        super().__init__()
        self._elements: grain.DatasetIterator | None = None
        self.config = config
        self.batch_size = batch_size
        self.records = open_source(config.source, height=config.height, width=config.width)
        self.bad: dict[str, str] = {}
        self._shard = (process_index, process_count)
        self._position = 0
        self._num_bad = 0
        self._identity = _identity(self.records, config, batch_size, process_count)

    def __next__(self) -> dict[str, Any]:
        """Returns the next batch.

        Raises:
          RunError: more files are bad than `max_bad_share` allows.
          StopIteration: the epochs are over.
        """
        elements: list[Element] = []
        while len(elements) < self.batch_size:
            element = self._next_element()
            if element is not None:
                elements.append(element)
        batch: dict[str, Any] = {name: [element[name] for element in elements] for name in elements[0]}
        return batch | {name: np.stack(batch[name]) for name in batch if name not in ("text", "key")}

    def _next_element(self) -> Element | None:
        if self._elements is None:
            self._elements = self._start()
        element = next(self._elements)
        self._position += 1
        if not isinstance(element, _Bad):
            return element
        self._num_bad += 1
        if element.key not in self.bad:
            self.bad[element.key] = element.reason
            logger.warning("skipped clip %s: %s", element.key, element.reason)
        self._judge()
        return None

    def _judge(self) -> None:
        enough = min(_JUDGED_AFTER, -(-len(self.records) // self._shard[1]))
        share = self._num_bad / self._position
        if self._position >= enough and share > self.config.max_bad_share:
            key, reason = next(reversed(self.bad.items()))
            raise RunError(
                f"{self._num_bad} of {self._position} clips of {self.config.source} could not be used, more than "
                f"data.max_bad_share={self.config.max_bad_share:g} allows; the last: {key}: {reason}"
            )

    def _start(self) -> grain.DatasetIterator:
        config = self.config
        dataset = grain.MapDataset.range(len(self.records)).seed(config.seed)
        if config.shuffle:
            dataset = dataset.shuffle()
        load = _Load(self.records, config, dataset.repeat(config.num_epochs), self.batch_size, *self._shard)
        places = grain.MapDataset.range(self._position, len(load))
        reading = grain.ReadOptions(num_threads=config.read_threads, prefetch_buffer_size=config.read_threads)
        elements = places.map(load).to_iter_dataset(reading)
        if config.num_workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # grain's workers read absl's flags
            options = grain.MultiprocessingOptions(config.num_workers, config.worker_buffer)
            elements = elements.mp_prefetch(options, worker_init_fn=_start_worker)
        return iter(elements)

    def get_state(self) -> dict[str, Any]:
        """The position after the last batch, and the data it belongs to; JSON."""
        return {"position": self._position, "num_bad": self._num_bad, **self._identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues after the batch that `get_state` was called after.

        Raises:
          RunError: the state belongs to other data, or to another number of processes.
        """
        for name, ours in self._identity.items():
            if state.get(name) != ours:
                raise RunError(
                    f"the checkpoint's data has {name}={state.get(name)!r}, this run {ours!r}: the same elements "
                    f"cannot follow; restore {name}, or start the data anew by leaving its state out"
                )
        self._stop()
        self._position, self._num_bad = state["position"], state["num_bad"]

    def _stop(self) -> None:
        if self._elements is not None:
            self._elements.close()
            self._elements = None

    def start_prefetch(self) -> None:
        """Starts the workers now rather than at the first batch."""
        if self._elements is None:
            self._elements = self._start()
            self._elements.start_prefetch()

    def close(self) -> None:
        """Ends the worker processes."""
        self._stop()


def _identity(records: Any, config: DataConfig, batch_size: int, process_count: int) -> dict[str, Any]:
    """The settings that must be equal for a position to mean the same element and the same share of the data."""
    keys = records.digest() if hasattr(records, "digest") else _digest(record.key for record in records)
    return {
        "source_sha256": keys,
        "num_clips": len(records),
        "seed": config.seed,
        "shuffle": config.shuffle,
        "process_count": process_count,
        "batch_size": batch_size,
    }


def _digest(keys) -> str:
    digest = hashlib.sha256()
    for key in keys:
        digest.update(key.encode() + b"\0")
    return digest.hexdigest()[:16]
