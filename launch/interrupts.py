"""Ends a command early without leaving anything half-written."""

import contextlib
import signal
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP (a closed terminal) end the work like Ctrl-C, so that nothing is left half-written.

    A second signal, even Ctrl-C, is ignored while an interrupt is being handled, because it would cut the cleanup
    short. This is common: `timeout` sends SIGTERM to its command and then to its group. A signal that is already
    ignored, as under nohup, stays ignored.
    """

    def interrupt(*_):
        if not _is_interrupted(sys.exc_info()[1]):
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    caught = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, before[number])


def _is_interrupted(error: BaseException | None) -> bool:
    """Whether the exception that is being handled is an interrupt, or was raised while one was handled."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False
