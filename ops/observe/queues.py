"""How many messages are in the queues, as Dramatiq keeps them in Redis."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Final

from actors.hints import JOBS

_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class QueueLength:
    """One queue.

    Attributes:
        queue: its name.
        waiting: messages that nobody has taken.
        running: messages that workers have taken and not finished with.
        dead: messages that failed, kept for people to look at.
    """

    queue: str
    waiting: int
    running: int
    dead: int


def queue_lengths(url: str | None, namespace: str) -> list[QueueLength] | None:
    """Count the messages of each queue.

    Args:
        url: of the Redis server.
        namespace: prefix of the keys.

    Returns:
        One for each kind of job; None if Redis does not answer.
    """
    if url is None:
        return None
    import redis

    client = redis.Redis.from_url(
        url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, retry=None, decode_responses=True
    )
    with contextlib.closing(client):
        try:
            acks = list(client.scan_iter(match=f"{namespace}:__acks__.*", count=1_000))
            with client.pipeline(transaction=False) as pipe:
                for job in JOBS:
                    pipe.llen(f"{namespace}:{job.queue}")
                    pipe.zcard(f"{namespace}:{job.queue}.XQ")
                for key in acks:
                    pipe.scard(key)
                numbers = [int(number) for number in pipe.execute()]
        except (redis.RedisError, OSError):
            return None
    taken = dict(zip(acks, numbers[2 * len(JOBS) :], strict=True))
    return [
        QueueLength(
            queue=job.queue,
            waiting=numbers[2 * place],
            running=sum(number for key, number in taken.items() if key.endswith(f".{job.queue}")),
            dead=numbers[2 * place + 1],
        )
        for place, job in enumerate(JOBS)
    ]
