"""What the broker does around jobs."""

from __future__ import annotations

import threading
from typing import Final

import structlog
from dramatiq import Broker, Middleware, Worker
from dramatiq.broker import MessageProxy
from dramatiq.brokers.redis import RedisBroker
from redis.exceptions import RedisError

from actors.queue_keys import why_key

_log = structlog.get_logger("worker")

_REASON_LETTERS_MAX: Final = 500


class StopMiddleware(Middleware):
    """Tells running jobs, through an event that their progress reports look at, that the worker is to stop.

    Args:
        stopping: set when the worker begins to shut down.
    """

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """Set the event."""
        self._stopping.set()


class WhyMiddleware(Middleware):
    """Keeps the reason why a message failed for as long as the message is kept.

    Args:
        kept_ms: how long, in milliseconds.
    """

    def __init__(self, kept_ms: int) -> None:
        self._kept_ms = kept_ms

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        """Write the reason down; a lost one is one that nobody can read later, and no more."""
        del result
        message_id = message.options.get("redis_message_id")
        if exception is None or not isinstance(broker, RedisBroker) or not isinstance(message_id, str):
            return
        reason = f"{type(exception).__name__}: {exception}"[:_REASON_LETTERS_MAX]
        try:
            broker.client.set(why_key(broker.namespace, message_id), reason, px=self._kept_ms)
        except RedisError as error:
            _log.warning("the reason of a failure is not kept", reason=str(error))
