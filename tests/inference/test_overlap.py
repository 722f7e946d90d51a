"""Read-ahead and write-behind: order, what runs at the same time, errors, and leaving early."""

import threading
import time

import pytest

from star_jax.inference.overlap import WriteBehind, read_ahead


def threads() -> int:
    return sum(thread.name.startswith(("read-ahead", "write-behind")) for thread in threading.enumerate())


def test_items_come_in_order_and_the_thread_ends():
    assert list(read_ahead(range(100))) == list(range(100))
    assert threads() == 0


def test_one_item_is_made_while_another_is_used():
    made = [threading.Event() for _ in range(4)]

    def items():
        for i, event in enumerate(made):
            event.set()
            yield i

    ahead = read_ahead(items())
    next(ahead)
    assert made[1].wait(timeout=30)
    assert not made[2].wait(timeout=0.05)
    ahead.close()
    assert threads() == 0


def test_the_caller_goes_on_while_an_item_is_written():
    going_on, written = threading.Event(), []

    def write(item):
        assert going_on.wait(timeout=30)
        written.append(item)

    with WriteBehind(write) as hand_over:
        hand_over(1)
        going_on.set()
        hand_over(2)
    assert written == [1, 2]


def test_an_error_of_the_iterator_comes_in_its_place():
    def items():
        yield 1
        raise OSError("damaged")

    ahead = read_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(OSError, match="damaged"):
        next(ahead)
    assert threads() == 0


def test_writing_keeps_the_order_and_finishes():
    written = []

    def write(item):
        time.sleep(0.005)
        written.append(item)

    with WriteBehind(write) as hand_over:
        for i in range(20):
            hand_over(i)
    assert written == list(range(20))
    assert threads() == 0


def test_an_error_while_writing_is_raised_and_ends_it():
    written = []

    def write(item):
        if item == 2:
            raise OSError("disk full")
        written.append(item)

    with pytest.raises(OSError, match="disk full"), WriteBehind(write) as hand_over:
        for i in range(20):
            hand_over(i)
            time.sleep(0.002)
    assert written == [0, 1]
    with pytest.raises(OSError, match="disk full"), WriteBehind(write) as hand_over:
        hand_over(2)  # the error comes at the end
    assert threads() == 0


def test_an_error_of_the_caller_waits_for_what_is_being_written():
    written = []
    with pytest.raises(KeyboardInterrupt), WriteBehind(written.append) as hand_over:
        hand_over(1)
        raise KeyboardInterrupt
    assert written == [1]
    assert threads() == 0
