"""Long queues are read page by page, in bounded memory, while others work on them."""

from __future__ import annotations

import json
import time
import tracemalloc
from datetime import UTC, datetime

import redis

from actors.queues import MessageState, QueueReader


def fill(client: redis.Redis, namespace: str, queue: str, messages: int, dead: int = 0) -> None:
    """Put messages into a queue as the broker does, many at a time."""
    now_ms = int(time.time() * 1000)
    for start in range(0, messages + dead, 5_000):
        pipe = client.pipeline(transaction=False)
        for number in range(start, min(start + 5_000, messages + dead)):
            is_dead = number >= messages
            key = f"{namespace}:{queue}{'.XQ' if is_dead else ''}"
            message_id = f"{number:08d}-0000-4000-8000-000000000000"
            pipe.hset(f"{key}.msgs", message_id, packed(queue, number, message_id, now_ms))
            if is_dead:
                pipe.zadd(key, {message_id: now_ms + number // 500})  # many fail within one millisecond
            else:
                pipe.rpush(key, message_id)
        pipe.execute()


def packed(queue: str, subject_id: int, message_id: str, now_ms: int) -> str:
    """Write a message as Dramatiq does."""
    return json.dumps(
        {
            "queue_name": queue,
            "actor_name": "verify_image",
            "args": [subject_id],
            "kwargs": {},
            "options": {"redis_message_id": message_id},
            "message_id": message_id,
            "message_timestamp": now_ms,
        }
    )


def read_long_queue(client: redis.Redis, namespace: str, messages: int, memory_bytes: int) -> float:
    """Read a queue of so many messages that wait and as many that failed; return how long it took, in seconds."""
    fill(client, namespace, "verify", messages, messages)
    reader = QueueReader(client, namespace, ["verify"])
    now = datetime.now(UTC)
    begun = time.monotonic()
    tracemalloc.start()
    try:
        seen = [0, 0]
        for message in reader.messages("verify", now):
            is_dead = message.state is MessageState.DEAD
            assert message.subject_id == seen[is_dead] + messages * is_dead, (
                "in order, none missed, none twice"
            )
            seen[is_dead] += 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen == [messages, messages]
    assert peak < memory_bytes, f"took {peak:,} bytes"
    (counts,) = reader.counts(now)
    assert counts.by_state[MessageState.WAITING] == counts.by_state[MessageState.DEAD] == messages
    return time.monotonic() - begun
