"""Work in threads: in order, within bounds, and never stuck."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.pipeline import BufferPool, ordered_map

IN_TIME_S = 30
"""Far more than anything here takes: only what hangs does not end in it."""


def rollforward_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("rollforward")]


@settings(max_examples=50)
@given(st.lists(st.integers(), max_size=40), st.integers(1, 5), st.integers(1, 12))
def test_results_come_in_the_order_of_the_items(items, threads, ahead):
    assert list(ordered_map(lambda item: item + 1, items, threads=threads, ahead=ahead)) == [
        item + 1 for item in items
    ]
    assert not rollforward_threads()


def test_a_slow_item_is_waited_for():
    later_done = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert later_done.wait(IN_TIME_S)
        if item == 3:
            later_done.set()
        return item

    assert list(ordered_map(work, range(8), threads=2, ahead=4)) == list(range(8))


def test_no_more_items_are_taken_than_said():
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    with closing(ordered_map(lambda item: item, items(), threads=2, ahead=5)) as results:
        for count, _ in enumerate(itertools.islice(results, 20), start=1):
            assert len(taken) <= count + 5
    assert not rollforward_threads()


def test_an_error_of_the_work_is_raised_in_its_place():
    def work(item: int) -> int:
        if item == 7:
            raise ValueError("seven")
        return item

    results = ordered_map(work, range(100), threads=3)
    assert list(itertools.islice(results, 7)) == list(range(7))
    with pytest.raises(ValueError, match="seven"):
        next(results)
    assert not rollforward_threads()


def test_the_first_of_two_errors_is_raised():
    both = threading.Barrier(2, timeout=IN_TIME_S)

    def work(item: int) -> int:
        if item in (2, 3):
            both.wait()
            raise ValueError(str(item))
        return item

    with pytest.raises(ValueError, match="2"):
        list(ordered_map(work, range(10), threads=2))


def test_an_error_of_the_items_is_raised_after_what_was_begun_has_ended():
    ended = threading.Event()
    begun = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        assert begun.wait(IN_TIME_S)
        raise OSError("no more")

    def work(item: int) -> int:
        begun.set()
        for _ in range(1000):
            np.zeros(1000).sum()
        ended.set()
        return item

    with pytest.raises(OSError, match="no more"):
        list(ordered_map(work, items(), threads=1))
    assert ended.is_set()
    assert not rollforward_threads()


def test_closing_early_ends_the_threads_and_what_waits_is_never_begun():
    begun: list[int] = []
    results = ordered_map(begun.append, range(1000), threads=1, ahead=4)
    next(results)
    results.close()
    assert not rollforward_threads()
    assert len(begun) <= 5


def test_closing_what_was_never_begun():
    ordered_map(lambda item: item, range(3)).close()
    assert not rollforward_threads()


@pytest.mark.parametrize("bad", [None, 0, 3, 20, 39])
def test_as_many_buffers_as_items_ahead_are_enough_even_when_work_fails_and_keeps_its_buffer(bad):
    """The engine's own pattern: a buffer is taken in a thread and given back by the one who takes the result."""
    ahead = 4
    pool = BufferPool(ahead, 4096)
    outcome: list[object] = []

    def work(item: int) -> tuple[int, np.ndarray]:
        buffer = pool.take()
        if item == bad:
            raise ValueError("bad")
        buffer[:] = item
        return item, buffer

    def go() -> None:
        try:
            with closing(ordered_map(work, range(40), threads=3, ahead=ahead)) as results:
                for item, buffer in results:
                    assert (buffer == item).all()
                    pool.give(buffer)
            outcome.append("done")
        except ValueError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    thread.join(IN_TIME_S)
    assert outcome == ["done" if bad is None else "bad"], "stuck"


def test_a_reader_that_stops_early_and_keeps_its_buffer_does_not_get_stuck():
    pool = BufferPool(4, 4096)
    done = threading.Event()

    def go() -> None:
        with closing(ordered_map(lambda item: pool.take(), range(40), threads=3, ahead=4)) as results:
            next(results)
        done.set()

    threading.Thread(target=go, daemon=True).start()
    assert done.wait(IN_TIME_S), "stuck"


def test_buffers_are_used_again():
    pool = BufferPool(2, 8192)
    one, other = pool.take(), pool.take()
    assert len(one) == len(other) == pool.size_bytes == 8192
    assert one.ctypes.data % 4096 == other.ctypes.data % 4096 == 0, "direct I/O wants whole pages"
    one[:], other[:] = 1, 2
    assert (one == 1).all()
    pool.give(one)
    assert pool.take().ctypes.data == one.ctypes.data
