"""Sending messages again, and dropping them: each at a stroke, so that no message is lost or doubled on the way."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import redis

from actors.broker import HEARTBEAT_TIMEOUT_MS
from actors.queue_keys import why_key
from actors.queues import MessageState, QueuedMessage, run_on_redis

_SEND_DEAD_AGAIN: Final = """
local content = redis.call("hget", KEYS[2], ARGV[1])
if redis.call("zrem", KEYS[1], ARGV[1]) == 0 or not content then return 0 end
redis.call("hset", KEYS[4], ARGV[1], content)
redis.call("rpush", KEYS[3], ARGV[1])
redis.call("hdel", KEYS[2], ARGV[1])
return 1
"""

_SEND_STRANDED_AGAIN: Final = """
local heard = redis.call("zscore", KEYS[4], ARGV[2])
if heard and tonumber(heard) > tonumber(ARGV[3]) then return 0 end
if redis.call("srem", KEYS[1], ARGV[1]) == 0 then return 0 end
if redis.call("hexists", KEYS[3], ARGV[1]) == 1 then redis.call("rpush", KEYS[2], ARGV[1]) end
return 1
"""

_DROP_LISTED: Final = """
local there = redis.call("lrem", KEYS[1], 0, ARGV[1])
if there > 0 then redis.call("hdel", KEYS[2], ARGV[1]) end
return there
"""

_DROP_DEAD: Final = """
local there = redis.call("zrem", KEYS[1], ARGV[1])
redis.call("hdel", KEYS[2], ARGV[1])
return there
"""


class Change(StrEnum):
    """What came of a wish: done; the message was not there any more as it was; there is nothing to be done."""

    DONE = "done"
    MOVED_ON = "moved on"
    NEEDLESS = "needless"
    RUNNING = "running"


class QueueChanges:
    """Changes the queues of one agent.

    Args:
        client: answers in text.
        namespace: prefix of the agent's keys.
    """

    def __init__(self, client: redis.Redis, namespace: str) -> None:
        self._client = client
        self._namespace = namespace

    def send_again(self, message: QueuedMessage, now: datetime) -> Change:
        """Put a message that failed, or whose worker is gone, back into its queue.

        Args:
            message: as it was read.
            now: real time.

        Raises:
            QueueError: Redis does not answer.

        Crash: it is where it was, or back in its queue.
        """
        queue = self._key(message.queue)
        if message.state is MessageState.DEAD:
            keys = (f"{queue}.XQ", f"{queue}.XQ.msgs", queue, f"{queue}.msgs")
            return self._change(_SEND_DEAD_AGAIN, keys, message.id)
        if message.state is MessageState.STRANDED and message.worker is not None:
            gone_before = now - timedelta(milliseconds=HEARTBEAT_TIMEOUT_MS)
            acks = self._key(f"__acks__.{message.worker}.{message.queue}")
            keys = (acks, queue, f"{queue}.msgs", self._key("__heartbeats__"))
            gone_ms = str(int(gone_before.timestamp() * 1000))
            return self._change(_SEND_STRANDED_AGAIN, keys, message.id, message.worker, gone_ms)
        return Change.NEEDLESS

    def drop(self, message: QueuedMessage) -> Change:
        """Take a message that waits or failed out of its queue.

        Args:
            message: as it was read.

        Raises:
            QueueError: Redis does not answer.

        Crash: it is where it was, or gone.
        """
        queue = self._key(message.queue)
        if message.state is MessageState.DEAD:
            done = self._change(_DROP_DEAD, (f"{queue}.XQ", f"{queue}.XQ.msgs"), message.id)
            run_on_redis(lambda: self._client.delete(why_key(self._namespace, message.id)))
            return done
        if message.worker is not None:
            return Change.RUNNING
        listed = queue if message.state is MessageState.WAITING else f"{queue}.DQ"
        return self._change(_DROP_LISTED, (listed, f"{listed}.msgs"), message.id)

    def _key(self, name: str) -> str:
        return f"{self._namespace}:{name}"

    def _change(self, script: str, keys: tuple[str, ...], *arguments: str) -> Change:
        done = run_on_redis(lambda: self._client.eval(script, len(keys), *keys, *arguments))
        return Change.DONE if done else Change.MOVED_ON
