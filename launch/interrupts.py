"""Ending a command early without leaving anything half-written."""

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP (a closed terminal) end the work like Ctrl-C, so that nothing is left half-written.

    A signal that is ignored, as under nohup, stays so.
    """

    def interrupt(*_):
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    caught = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, before[number])
