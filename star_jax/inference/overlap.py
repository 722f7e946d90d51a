"""Host work beside the device's: an iterator that runs one ahead in a thread, a consumer that runs one behind."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")

_END = object()


def read_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yields the same items; a thread makes the next item while the caller works on this one.

    An exception of the iterator is raised where its item would have come. Closing the generator waits for the item
    being made.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1, "read-ahead") as thread:
        upcoming = thread.submit(next, iterator, _END)
        while (item := upcoming.result()) is not _END:
            upcoming = thread.submit(next, iterator, _END)
            yield item
            del item  # else it would live on while the caller waits for the next one


@contextmanager
def write_behind(write: Callable[[Item], None]) -> Iterator[Callable[[Item], None]]:
    """Yields a function that has `write` called with an item in a thread, once the item before is done.

    An exception of `write` is raised by the next call, or at the end; leaving the context waits for the last item.
    """
    with ThreadPoolExecutor(1, "write-behind") as thread:
        pending: Future | None = None

        def hand_over(item: Item) -> None:
            nonlocal pending
            if pending is not None:
                pending.result()
            pending = thread.submit(write, item)

        yield hand_over
        if pending is not None:
            pending.result()
