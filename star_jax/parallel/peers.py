"""Messages between the processes of a run, besides arrays: texts, why a process stops, and heartbeats.

They go through the key-value store of JAX's coordination service, which needs no device and runs in process 0. JAX
has no public API for it.
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

# A process without a heartbeat for this long is lost. JAX itself notices after 100 s, and aborts with a core dump.
LOST_AFTER_SECONDS = 60.0
_BETWEEN_LOOKS = 1.0
_HEARD_WITHIN = 10.0  # how long a stopping process waits for the others to notice
_ENDED, _ALIVE, _HEARD = "star_jax/ended", "star_jax/alive", "star_jax/heard"
_REMEDY = "run the same command again: it resumes from the newest checkpoint"
_gathered = itertools.count()


def gather_texts(text: str, *, seconds: int = 1800) -> list[str]:
    """Gathers a text from each process, in the order of process IDs; all processes must call it at the same point.

    Args:
      text: text of this process.
      seconds: seconds after which waiting processes give up.
    """
    if jax.process_count() == 1:
        return [text]
    name, client = f"star_jax/gathered/{next(_gathered)}", _client()
    client.key_value_set(f"{name}/{jax.process_index()}", f"={text}")  # values may not be empty
    client.wait_at_barrier(name, 1000 * seconds)
    found = _entries(client, name)
    return [found[index].removeprefix("=") for index in range(jax.process_count())]


def stop_all(message: str, exit_code: int = 1) -> None:
    """Tells the other processes why this one ends, and waits a little for them to notice."""
    client = _client()
    if client is None or jax.process_count() == 1:
        return
    with contextlib.suppress(Exception):  # if the service is gone, the others notice that, too
        client.key_value_set(
            f"{_ENDED}/{jax.process_index()}", f"{exit_code} {message}", allow_overwrite=True
        )
        until = time.monotonic() + _HEARD_WITHIN
        while len(_entries(client, _HEARD)) < jax.process_count() - 1 and time.monotonic() < until:
            time.sleep(_BETWEEN_LOOKS / 4)


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """A context in which a process that stops tells the others why, and they end as well, with one line each.

    Otherwise they would wait forever in a collective operation. If a process sends no more heartbeats, because it
    was killed or its machine is gone, the remaining processes report its ID.

    When an operation fails because another process is lost, this process exits at once: JAX would wait for the lost
    one, and then abort with a core dump.
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
        # Whose fault it is becomes clear a moment later: the process that stopped reports it, or falls silent.
        time.sleep(3 * _BETWEEN_LOOKS)
        listener.stop()
        if not _is_lost_contact(error):
            stop_all(f"{type(error).__name__}: {first_line(error)}")
            raise
        message = f"another process of this run is gone ({first_line(error)}); {_REMEDY}"
        print(f"star-jax: process {jax.process_index()}: {message}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)
    finally:
        listener.stop()


class _Listener(threading.Thread):
    """Sends this process's heartbeat, and ends the process when another one has ended or is lost."""

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
                        f"has not been heard from for {LOST_AFTER_SECONDS:.0f} s; check its machine, then "
                    )
                    return self._end(f"process {index}", silence + _REMEDY, 1)

    def _end(self, who: str, what: str, exit_code: int) -> None:
        if self._stopped.is_set():  # this process is ending by itself
            return
        with contextlib.suppress(Exception):
            self._client.key_value_set(f"{_HEARD}/{self._index}", "1", allow_overwrite=True)
        print(f"star-jax: process {self._index}: {who} {what}", file=sys.stderr, flush=True)
        # The main thread may be stuck in a collective operation, where it cannot be interrupted.
        leaving = threading.Thread(target=_leave, daemon=True)
        leaving.start()
        leaving.join(_HEARD_WITHIN)
        os._exit(exit_code)


def _leave() -> None:
    """Disconnects from the coordination service, so that the process that ended need not wait for this one."""
    with contextlib.suppress(Exception):
        distributed.global_state.shutdown()


def _client() -> Any:
    return distributed.global_state.client


def _entries(client: Any, folder: str) -> dict[int, str]:
    """Values below a key, by the ID of the process that set them."""
    return {int(key.rpartition("/")[2]): value for key, value in client.key_value_dir_get(folder)}


def _is_lost_contact(error: Exception) -> bool:
    text = str(error).lower()
    words = ("gloo", "nccl", "connection", "coordination", "heartbeat", "unavailable", "deadline", "barrier")
    return any(word in text for word in words)
