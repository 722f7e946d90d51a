"""Host work beside the device's: an iterator that runs one ahead in a thread, a consumer that runs one behind.

A thread works on files that the caller closes. So neither is left, however the work ends, before its thread has
finished the item it is at: closing a file that a thread reads or writes ends the process without a word.
"""

import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")

_END: Any = object()


def read_ahead(items: Iterable[Item]) -> Generator[Item, None, None]:
    """Yields the same items; a thread makes the next item while the caller works on this one.

    An exception of the iterator is raised where its item would have come. Closing the generator waits for the item
    being made, and closes the iterator.
    """
    iterator = iter(items)
    thread = _started("read-ahead")
    try:
        upcoming = thread.submit(next, iterator, _END)
        while (item := upcoming.result()) is not _END:
            upcoming = thread.submit(next, iterator, _END)
            yield item
            del item  # else it would live on while the caller waits for the next one
    finally:
        try:
            _end(thread)
        finally:
            if hasattr(iterator, "close"):
                iterator.close()


class WriteBehind(Generic[Item]):
    """Context manager: has `write` called with an item in a thread, once the item before is done.

    An exception of `write` is raised by the next call, or at the end; leaving the context waits for the last item.
    Who closes the file after it should call `wait` within it: an interrupt can cut off the first step of leaving.
    """

    def __init__(self, write: Callable[[Item], None]):
        self._write = write
        self._thread = _started("write-behind")
        self._pending: Future | None = None

    def __call__(self, item: Item) -> None:
        """Hands an item over."""
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
    """An executor whose thread runs already: one that is interrupted while it starts a thread loses track of it."""
    thread = ThreadPoolExecutor(1, name)
    thread.submit(int).result()
    return thread


def _end(thread: ThreadPoolExecutor) -> None:
    """Waits for all that was submitted, and ends the thread; an interrupt in between is raised afterwards.

    An event is waited for, not the thread's end: Python 3.11 takes a thread whose `join` was interrupted for ended.
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
        except RuntimeError:  # Python is ending, takes no more work, and has waited for its threads
            return
    thread.shutdown()
    if interrupt is not None:
        raise interrupt
