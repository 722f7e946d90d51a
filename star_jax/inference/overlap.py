"""Host work in parallel with the device: an iterator that prefetches in a thread, and a writer in another thread.

The threads work on files that the caller closes. So both always wait until their thread has finished its current
item, however the work ends: closing a file that a thread reads or writes crashes the process.
"""

import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")

_END: Any = object()


def read_ahead(items: Iterable[Item]) -> Generator[Item, None, None]:
    """Yields the same items; a thread prefetches the next item while the caller works on this one.

    An exception of the iterator is raised in place of its item. Closing the generator waits for the item that is
    being prefetched, and closes the iterator.
    """
    iterator = iter(items)
    thread = _started("read-ahead")
    try:
        upcoming = thread.submit(next, iterator, _END)
        while (item := upcoming.result()) is not _END:
            upcoming = thread.submit(next, iterator, _END)
            yield item
            del item  # otherwise it would stay in memory while the caller waits for the next one
    finally:
        try:
            _end(thread)
        finally:
            if hasattr(iterator, "close"):
                iterator.close()


class WriteBehind(Generic[Item]):
    """Context manager that calls `write` with each item in a thread, one item after another.

    An exception of `write` is raised by the next call, or at the end; leaving the context waits for the last item.
    A caller that closes the file afterwards should call `wait` within the context, because an interrupt can prevent
    the wait while the context is left.
    """

    def __init__(self, write: Callable[[Item], None]):
        self._write = write
        self._thread = _started("write-behind")
        self._pending: Future | None = None

    def __call__(self, item: Item) -> None:
        """Waits for the previous item, then has the thread write this one."""
        self.wait()
        self._pending = self._thread.submit(self._write, item)

    def wait(self) -> None:
        """Waits until all items are written."""
        if self._pending is not None:
            self._pending.result()

    def __enter__(self) -> "WriteBehind[Item]":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            _end(self._thread)


def _started(name: str) -> ThreadPoolExecutor:
    """An executor whose thread is already running: an executor that is interrupted while starting it loses it."""
    thread = ThreadPoolExecutor(1, name)
    thread.submit(int).result()
    return thread


def _end(thread: ThreadPoolExecutor) -> None:
    """Waits for everything that was submitted, and ends the thread; an interrupt in between is raised afterwards.

    It waits for an event, not for the thread: Python 3.11 considers a thread ended if its `join` was interrupted.
    """
    idle, interrupt, is_submitted = threading.Event(), None, False
    while not idle.is_set():
        try:
            if not is_submitted:
                thread.submit(idle.set)
                is_submitted = True
            idle.wait()
        except KeyboardInterrupt as another:
            interrupt = another
        except RuntimeError:  # Python is shutting down, accepts no more work, and has waited for its threads
            return
    thread.shutdown()
    if interrupt is not None:
        raise interrupt
