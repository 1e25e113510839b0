"""The message broker and its settings, each set on purpose."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Retries, TimeLimit

from actors.middleware import StopMiddleware, WhyMiddleware

HEARTBEAT_TIMEOUT_MS: Final = 30_000
"""A worker that has not spoken for so long counts as gone, and its messages are given to others."""

MAINTENANCE_CHANCE: Final = 100_000
"""Of a million commands, so many look for messages of workers that are gone: with the library's 1,000 it took
six minutes to find them, with this a few seconds."""

DEAD_MESSAGE_TTL: Final = timedelta(days=7)
"""How long a message that failed is kept for people to look at."""


def make_broker(url: str, namespace: str, *, stop: StopMiddleware | None = None) -> RedisBroker:
    """Return a broker on a Redis server; nothing is connected yet, and no global broker is set.

    Args:
        url: `redis://…`, `rediss://…` or `unix://…`.
        namespace: prefix of every key; two agents with different catalogues have different ones.
        stop: tells running jobs that their worker is to stop; needed in workers only.

    Returns:
        The broker. Messages that fail are never sent again by it: when to try again is the catalogue's to
        say, so that nothing waits in a worker's memory.
    """
    dead_ttl_ms = int(DEAD_MESSAGE_TTL.total_seconds() * 1000)
    middleware = [TimeLimit(), Retries(max_retries=0), WhyMiddleware(dead_ttl_ms)]
    return RedisBroker(  # type: ignore[no-untyped-call]
        url=url,
        namespace=namespace,
        maintenance_chance=MAINTENANCE_CHANCE,
        heartbeat_timeout=HEARTBEAT_TIMEOUT_MS,
        dead_message_ttl=dead_ttl_ms,
        middleware=[*middleware, stop] if stop is not None else middleware,
    )
