"""A queue of 100,000 messages."""

from __future__ import annotations

import pytest
import redis

from tests.checks.queues import read_long_queue
from tests.queue_server import NAMESPACE, redis_server

pytestmark = pytest.mark.acceptance


def test_a_queue_of_100_000_messages_is_read_in_bounded_memory(tmp_path):
    with redis_server(tmp_path) as url, redis.Redis.from_url(url, decode_responses=True) as client:
        seconds = read_long_queue(client, NAMESPACE, 100_000, 16 << 20)
    print(f"\n  100,000 messages that wait and as many that failed, each looked at: {seconds:.1f} s")
