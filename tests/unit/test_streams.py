"""Stored streams of several images: what one batch promises, and what is refused."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
import pytest

from policies.errors import FormatError, StorageError
from storage import replay
from storage.overlay import Overlay
from storage.streams import StoredBatch, StoredStreams
from tests.unit.test_overlay import scattered, volume_of

LIMIT_BYTES = 4 << 20


def test_an_error_waits_until_the_buffer_is_left_alone(tiny):
    with Overlay(scattered(tiny, 2)) as laid:
        window = next(laid.windows())
    failed: Future[None] = Future()
    reading: Future[None] = Future()
    failed.set_exception(StorageError("cannot be read"))
    batch = StoredBatch(window, np.empty(1, np.uint8), np.zeros(len(window), np.int64), [failed, reading])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(batch.wait)
        try:
            assert not wait([waiting], timeout=0.05).done, "another thread writes into the buffer still"
        finally:
            reading.set_result(None)
        assert isinstance(waiting.exception(60), StorageError)


@pytest.mark.parametrize("by", [-1, 1])
def test_frames_that_do_not_touch_within_a_batch_are_refused(tiny, by):
    paths = scattered(tiny, 3)
    with Overlay(paths) as laid, StoredStreams(laid, LIMIT_BYTES) as streams:
        window = next(laid.windows())
        row = int(np.flatnonzero(window.layer == 1)[2])
        window.records["offset"][row] = int(window.records["offset"][row]) + by
        with pytest.raises(FormatError, match="leaves a gap") as caught:
            list(streams.begin(window))
        assert caught.value.path == str(paths[1])


def test_more_batches_in_a_stripe_than_there_are_buffers(tiny, monkeypatch):
    paths = scattered(tiny, 4, blocks=100)
    monkeypatch.setattr(replay, "_LOAD_BYTES", 1000)
    assert volume_of(paths) == tiny.states[3]
