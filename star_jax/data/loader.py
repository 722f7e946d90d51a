"""The loader: a Grain dataset from records to batches, exactly resumable and sharded by process."""

import dataclasses
import hashlib
import logging
import math
import re
from collections.abc import Sequence
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
from star_jax.files import check_seal, seal

logger = logging.getLogger(__name__)

# Number of times that killed workers are started again before an element must arrive.
_MOST_RESTARTS = 3
# The share of bad files is judged once this many elements were tried (or all of a smaller shard).
_JUDGED_AFTER = 50


@dataclasses.dataclass(frozen=True)
class _Bad:
    """Placeholder that workers return for an unusable element, so that positions do not shift."""

    key: str
    reason: str


@dataclasses.dataclass(frozen=True)
class _Load:
    """Loads the element at a place in a process's share; picklable, because each worker gets a copy.

    Attributes:
      numbers: record number by position in the stream of all processes together.
      batch_size: clips in a batch of this process.
    """

    records: Any = dataclasses.field(repr=False)  # Grain takes the repr, which takes minutes for many records
    config: DataConfig
    numbers: grain.MapDataset
    batch_size: int
    process_index: int
    process_count: int

    def __len__(self) -> int:
        """Number of elements in the share."""
        batches, rest = divmod(len(self.numbers), self.batch_size * self.process_count)
        of_last = rest - self.process_index * self.batch_size
        return batches * self.batch_size + min(max(of_last, 0), self.batch_size)

    def __call__(self, place: int) -> Element | _Bad:
        batch, row = divmod(place, self.batch_size)
        position = (batch * self.process_count + self.process_index) * self.batch_size + row
        number = self.numbers[position]
        key = f"number {number}"  # if the record itself cannot be read
        try:
            record = self.records[number]
            key = record.key
            return load_element(record, self.config, position)
        except BadClipError as error:
            return _Bad(key, str(error))


def _start_worker(worker: int, num_workers: int) -> None:
    cv2.setNumThreads(1)  # the workers are the parallelism


def in_workers(elements: grain.IterDataset, config: DataConfig) -> grain.IterDataset:
    """Has `data.num_workers` processes compute a dataset, in the same order; with 0, returns it unchanged."""
    if not config.num_workers:
        return elements
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain's workers read absl's flags
    options = grain.MultiprocessingOptions(config.num_workers, config.worker_buffer)
    return elements.mp_prefetch(options, worker_init_fn=_start_worker)


class ClipLoader(grain.DatasetIterator):
    """Iterates over batches of one process.

    The element at a position is a function of (seed, position) alone, and the state is the position: a resumed
    run may change the number of workers, threads and buffers and still gets the very same batches. Elements are
    dealt to processes in whole batches, so that the batches of all processes, one after the other, are the batch
    that a single process would get (until a clip is bad). A run can therefore resume with another number of
    processes after a whole batch (`deal_anew`).

    Batches: `gt` uint8 [B, F, H, W, 3], `lq` uint8 [B, F, h, w, 3], `text` and `key` lists of B strings,
    `index` int64 [B]. Fewer than B elements at the end of the last epoch are dropped.

    Args:
      config: settings of the data.
      batch_size: B, the batch size of this process.
      process_index, process_count: index of this process, and number of processes that share the elements.

    Attributes:
      bad: key -> reason for every record that this process has skipped.

    Raises:
      InputError: the source is missing or has no videos.
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
          RunError: more files are bad than `max_bad_share` allows, or workers are killed again and again.
          StopIteration: all epochs are over.
        """
        elements: list[Element] = []
        while len(elements) < self.batch_size:
            element = self._next_element()
            if element is not None:
                elements.append(element)
        batch: dict[str, Any] = {name: [element[name] for element in elements] for name in elements[0]}
        return batch | {name: np.stack(batch[name]) for name in batch if name not in ("text", "key")}

    def _next_element(self) -> Element | None:
        element = self._next_of_workers()
        self._position += 1
        if not isinstance(element, _Bad):
            return element
        self._num_bad += 1
        if element.key not in self.bad:
            self.bad[element.key] = element.reason
            logger.warning("skipped clip %s: %s", element.key, element.reason)
        self._judge()
        return None

    def _next_of_workers(self) -> Element | _Bad:
        """The next element; workers that were killed are started again at the same position.

        Raises:
          RunError: workers are killed again and again.
        """
        kills = 0
        while True:
            try:
                if self._elements is None:
                    self._elements = self._start()
                return next(self._elements)
            except RuntimeError as error:  # Grain reports a killed worker with it
                if not (self.config.num_workers and "terminated unexpectedly" in str(error)):
                    raise
                kills += 1
                code = _exit_code(error)
                if kills > _MOST_RESTARTS:
                    raise RunError(
                        f"loader workers were killed {kills} times in a row (exit code {code}); if memory ran out, "
                        "lower data.num_workers or data.worker_buffer"
                    ) from error
                logger.warning("a loader worker was killed (exit code %s); starting the workers again", code)
                self._stop()

    def _judge(self) -> None:
        enough = min(_JUDGED_AFTER, -(-len(self.records) // self._shard[1]))
        share = self._num_bad / self._position
        if self._position >= enough and share > self.config.max_bad_share:
            key, reason = next(reversed(self.bad.items()))
            raise RunError(
                f"{self._num_bad} of {self._position} clips of {self.config.source} could not be used, more than "
                f"data.max_bad_share={self.config.max_bad_share:g} allows; the last one was {key}: {reason}"
            )

    def _start(self) -> grain.DatasetIterator:
        config = self.config
        dataset = grain.MapDataset.range(len(self.records)).seed(config.seed)
        if config.shuffle:
            dataset = dataset.shuffle()
        load = _Load(self.records, config, dataset.repeat(config.num_epochs), self.batch_size, *self._shard)
        places = grain.MapDataset.range(self._position, len(load))
        reading = grain.ReadOptions(num_threads=config.read_threads, prefetch_buffer_size=config.read_threads)
        return iter(in_workers(places.map(load).to_iter_dataset(reading), config))

    def get_state(self) -> dict[str, Any]:
        """The position after the last batch and the identity of the data, as JSON values."""
        return seal({"position": self._position, "num_bad": self._num_bad, **self._identity})

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues after the batch that `get_state` followed.

        Raises:
          RunError: the state belongs to other data or to batches of another size, or stands within a batch while
            the number of processes changes.
          ValueError: the state is damaged.
        """
        check_seal(state)
        state = self._as_ours(state)
        for name, ours in self._identity.items():
            if state.get(name) != ours:
                raise RunError(
                    f"the checkpoint's data has {name}={state.get(name)!r}, but this run has {ours!r}, so the same "
                    f"elements cannot follow; restore {name}, or start the data anew by leaving its state out"
                )
        self._stop()
        self._position, self._num_bad = state["position"], state["num_bad"]

    def _as_ours(self, state: dict[str, Any]) -> dict[str, Any]:
        """Translates a state for the same batches, dealt to another number of processes, to this process."""
        count, size = state.get("process_count"), state.get("batch_size")
        ours = self._identity["process_count"], self._identity["batch_size"]
        if (count, size) == ours or not (count and size and count * size == math.prod(ours)):
            return state
        batches, rest = divmod(state["position"], size)
        if rest:
            raise RunError(
                "the checkpoint's data stands within a batch, because a clip was bad; deal it anew, or start the "
                "same number of processes as before"
            )
        bad = round(state["num_bad"] * count / ours[0])
        mine = {
            "position": batches * ours[1],
            "num_bad": bad,
            "process_count": ours[0],
            "batch_size": ours[1],
        }
        return state | mine

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


def deal_anew(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Merges the states of all processes into one for any number of processes.

    Args:
      states: states of the loaders of all processes of a run, after the same step.

    Returns:
      The state for `ClipLoader.set_state`, after the last batch that any process began. If no clip was bad,
      exactly the same elements follow as without the change. Bad clips make some processes go ahead of others;
      then the clips in between are left out, with a warning.

    Raises:
      ValueError: a state is damaged.
    """
    for state in states:
        check_seal(state)
    size = states[0]["batch_size"]
    ends = [-(-state["position"] // size) * size for state in states]
    if left_out := sum(max(ends) - state["position"] for state in states):
        logger.warning(
            "the number of processes changed: %d clips of this epoch are left out, because bad clips had moved the "
            "processes apart",
            left_out,
        )
    num_bad = sum(state["num_bad"] for state in states) // len(states)
    plain = {name: value for name, value in states[0].items() if name != "sha256"}
    return seal(plain | {"position": max(ends), "num_bad": num_bad})


def _exit_code(error: RuntimeError) -> str:
    return next(iter(re.findall(r"exit code (-?\d+)", str(error))), "unknown")


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
