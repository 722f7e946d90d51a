"""What processes of a run tell each other beside arrays: what each found, why one stops, and that each is alive.

They use the key-value store of JAX's coordination service, which needs no device and lives in process 0. JAX has no
public access to it.
"""

import contextlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import distributed

from star_jax.errors import StarError, first_line

# A process that was not heard of for so long is lost. JAX notices after 100 s, and ends in a core dump.
LOST_AFTER_SECONDS = 60.0
_BETWEEN_LOOKS = 1.0
_HEARD_WITHIN = 10.0  # how long a process that stops waits for the others to have heard
_ENDED, _ALIVE, _HEARD = "star_jax/ended", "star_jax/alive", "star_jax/heard"
_REMEDY = "run the same command again: it resumes at the newest checkpoint"
_gathered = itertools.count()


def gather_texts(text: str, *, seconds: int = 1800) -> list[str]:
    """What each process says, in the order of their numbers; every process calls this at the same place.

    Args:
      text: what this process says.
      seconds: after which those that wait give up.
    """
    if jax.process_count() == 1:
        return [text]
    name, client = f"star_jax/gathered/{next(_gathered)}", _client()
    client.key_value_set(f"{name}/{jax.process_index()}", f"={text}")  # values may not be empty
    client.wait_at_barrier(name, 1000 * seconds)
    found = _entries(client, name)
    return [found[index].removeprefix("=") for index in range(jax.process_count())]


def stop_all(message: str, exit_code: int = 1) -> None:
    """Tells the other processes why this one ends, and waits a little until they have heard."""
    client = _client()
    if client is None or jax.process_count() == 1:
        return
    with contextlib.suppress(Exception):  # the service may be gone: then the others know, too
        client.key_value_set(
            f"{_ENDED}/{jax.process_index()}", f"{exit_code} {message}", allow_overwrite=True
        )
        until = time.monotonic() + _HEARD_WITHIN
        while len(_entries(client, _HEARD)) < jax.process_count() - 1 and time.monotonic() < until:
            time.sleep(_BETWEEN_LOOKS / 4)


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Within it, a process that stops tells the others why, and they end as well, in one line each.

    Without this they would wait in a collective operation for what never comes. A process that is not heard of any
    more, because it was killed or its machine is gone, is named by those that are left.

    Where an operation fails because another process is lost, this one leaves at once: JAX would wait for that one,
    and then end in a core dump.
    """
    if jax.process_count() == 1:
        yield
        return
    listener = _Listener(_client())
    listener.start()
    try:
        yield
    except StarError as error:
        listener.stop()
        stop_all(str(error), error.exit_code)
        raise
    except Exception as error:
        # Whose fault it is shows a moment later: the one that stopped says so, or nothing is heard of it.
        time.sleep(3 * _BETWEEN_LOOKS)
        listener.stop()
        if not _is_lost_contact(error):
            stop_all(f"{type(error).__name__}: {first_line(error)}")
            raise
        what = f"another process of this run is gone ({first_line(error)}); {_REMEDY}"
        print(f"star-jax: process {jax.process_index()}: {what}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)
    finally:
        listener.stop()


class _Listener(threading.Thread):
    """Says that this process is alive, and ends it when another one has ended or is lost."""

    def __init__(self, client: Any):
        super().__init__(daemon=True)
        self._client, self._stopped = client, threading.Event()
        self._index, self._count = jax.process_index(), jax.process_count()

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        beats: dict[int, tuple[str, float]] = {}
        for beat in itertools.count():
            if self._stopped.wait(_BETWEEN_LOOKS):
                return
            try:
                self._client.key_value_set(f"{_ALIVE}/{self._index}", str(beat), allow_overwrite=True)
                ended, alive = _entries(self._client, _ENDED), _entries(self._client, _ALIVE)
            except Exception as error:
                return self._end("process 0", f"cannot be reached ({first_line(error)}); {_REMEDY}", 1)
            for index, text in ended.items():
                if index != self._index:
                    code, _, message = text.partition(" ")
                    return self._end(f"process {index}", f"stopped: {message}", int(code))
            now = time.monotonic()
            for index, text in alive.items():
                if index not in beats or beats[index][0] != text:
                    beats[index] = text, now
                elif now - beats[index][1] > LOST_AFTER_SECONDS:
                    silence = (
                        f"has not been heard of for {LOST_AFTER_SECONDS:.0f} s; look at its machine, then "
                    )
                    return self._end(f"process {index}", silence + _REMEDY, 1)

    def _end(self, who: str, what: str, exit_code: int) -> None:
        if self._stopped.is_set():  # this process is ending by itself
            return
        with contextlib.suppress(Exception):
            self._client.key_value_set(f"{_HEARD}/{self._index}", "1", allow_overwrite=True)
        print(f"star-jax: process {self._index}: {who} {what}", file=sys.stderr, flush=True)
        # The main thread may wait for ever in an operation of all devices: it cannot be asked to leave.
        leaving = threading.Thread(target=_leave, daemon=True)
        leaving.start()
        leaving.join(_HEARD_WITHIN)
        os._exit(exit_code)


def _leave() -> None:
    """Takes leave of the coordination service, so that the process that ended need not wait for this one."""
    with contextlib.suppress(Exception):
        distributed.global_state.shutdown()


def _client() -> Any:
    return distributed.global_state.client


def _entries(client: Any, folder: str) -> dict[int, str]:
    """Values below a key, by the number of the process that set them."""
    return {int(key.rpartition("/")[2]): value for key, value in client.key_value_dir_get(folder)}


def _is_lost_contact(error: Exception) -> bool:
    text = str(error).lower()
    words = ("gloo", "nccl", "connection", "coordination", "heartbeat", "unavailable", "deadline", "barrier")
    return any(word in text for word in words)
