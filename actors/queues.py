"""What lies in the queues: read from the broker's keys, changing none of them.

    NAMESPACE:Q                     list of message ids that wait
    NAMESPACE:Q.msgs                hash: id → message, for those that wait and those that are worked on
    NAMESPACE:Q.DQ, .DQ.msgs        the same for messages that are to wait until a time
    NAMESPACE:Q.XQ                  sorted set of ids that failed, by when they did (milliseconds)
    NAMESPACE:Q.XQ.msgs             hash: id → message, for these
    NAMESPACE:__acks__.WORKER.Q     set of ids that a worker took and has not finished
    NAMESPACE:__heartbeats__        sorted set of workers, by when they last spoke (milliseconds)
    NAMESPACE:__why__.ID            why a message failed; ours, for as long as failed messages are kept

Queues are long and move while they are read, so they are read page by page, each page with one command that the server
carries out at a stroke. Messages leave a list at its head and come at its end; the next page begins behind the last
message of this one, wherever that is by then, or at the head if it is gone, as all before it are too. So none that
stays is missed, and none is shown twice but one that was put back meanwhile.

Source: dispatch.lua of Dramatiq 2.2.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Final, cast

import redis

from actors.broker import HEARTBEAT_TIMEOUT_MS
from actors.queue_keys import why_key
from policies.errors import QueueError

PAGE_MESSAGES: Final = 500
"""So many messages are read at once."""

_LIST_PAGE: Final = """
local from = 0
if ARGV[1] ~= "" then
    local at = redis.call("lpos", KEYS[1], ARGV[1])
    if at then from = at + 1 end
end
local ids = redis.call("lrange", KEYS[1], from, from + ARGV[2] - 1)
if #ids == 0 then return {{}, {}} end
return {ids, redis.call("hmget", KEYS[2], unpack(ids))}
"""

_DEAD_PAGE: Final = """
local from = 0
if ARGV[1] ~= "" then
    local at = redis.call("zrank", KEYS[1], ARGV[1])
    if at then from = at + 1 else from = redis.call("zcount", KEYS[1], "-inf", "(" .. ARGV[3]) end
end
local found = redis.call("zrange", KEYS[1], from, from + ARGV[2] - 1, "withscores")
local ids, times = {}, {}
for i = 1, #found, 2 do ids[#ids + 1] = found[i]; times[#times + 1] = found[i + 1] end
if #ids == 0 then return {{}, {}, {}} end
return {ids, redis.call("hmget", KEYS[2], unpack(ids)), times}
"""

_COUNTS: Final = """
local counts = {}
for i = 1, #ARGV do
    local queue = KEYS[1] .. ":" .. ARGV[i]
    local first = redis.call("lindex", queue, 0)
    local oldest = first and redis.call("hget", queue .. ".msgs", first) or ""
    counts[i] = {redis.call("llen", queue), redis.call("llen", queue .. ".DQ"),
                 redis.call("zcard", queue .. ".XQ"), oldest}
end
return counts
"""


class MessageState(StrEnum):
    """Where a message is.

    WAITING: for a worker. DELAYED: until a time. RUNNING: a worker that lives has it. STRANDED: a worker has it that
    has not spoken for long; another one gets it soon. DEAD: it failed, and is kept to be looked at.
    """

    WAITING = "waiting"
    DELAYED = "delayed"
    RUNNING = "running"
    STRANDED = "stranded"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """A message in a queue.

    Attributes:
        id: its key in Redis; a message that is sent again has another one.
        queue: name of its queue.
        state: where it is.
        actor: name of the job; None if the message cannot be read.
        subject_id: id of what it is about; None likewise.
        sent_at: when it was sent; None likewise.
        due_at: of a delayed one, until when it waits.
        failed_at: of a dead one, when it failed.
        worker: who has it, or had it.
        heard_at: when that worker last spoke.
    """

    id: str
    queue: str
    state: MessageState
    actor: str | None = None
    subject_id: int | None = None
    sent_at: datetime | None = None
    due_at: datetime | None = None
    failed_at: datetime | None = None
    worker: str | None = None
    heard_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """How many messages a queue holds.

    Attributes:
        queue: its name.
        by_state: number of messages in each state.
        oldest_sent_at: when the one was sent that is next; None if none waits.
    """

    queue: str
    by_state: dict[MessageState, int]
    oldest_sent_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Taken:
    """Messages that a worker took from a queue."""

    worker: str
    heard_at: datetime
    key: str
    is_delayed: bool


class QueueReader:
    """Reads the queues of one agent.

    Args:
        client: answers in text (`decode_responses`).
        namespace: prefix of the agent's keys.
        queues: names of its queues.
        heartbeat_timeout: a worker that has been silent for so long counts as gone.
    """

    def __init__(
        self,
        client: redis.Redis,
        namespace: str,
        queues: Iterable[str],
        heartbeat_timeout: timedelta = timedelta(milliseconds=HEARTBEAT_TIMEOUT_MS),
    ) -> None:
        self._client = client
        self._namespace = namespace
        self.queues = tuple(queues)
        self._timeout = heartbeat_timeout

    def counts(self, now: datetime) -> tuple[QueueCounts, ...]:
        """Count the messages of each queue; how many does not change how long that takes.

        Args:
            now: real time.

        Raises:
            QueueError: Redis does not answer.
        """
        rows = cast("list[list[int | str]]", self._ask(_COUNTS, (self._namespace,), self.queues))
        found = []
        for queue, (waiting, delayed, dead, oldest) in zip(self.queues, rows, strict=True):
            counts = {
                MessageState.WAITING: int(waiting),
                MessageState.DELAYED: int(delayed),
                MessageState.RUNNING: 0,
                MessageState.STRANDED: 0,
                MessageState.DEAD: int(dead),
            }
            for taken in self._taken(queue):
                held = cast("int", self._run(partial(self._client.scard, taken.key)))
                counts[self._state_of(taken, now)] += held
            found.append(QueueCounts(queue, counts, _sent_at(_fields(str(oldest)))))
        return tuple(found)

    def messages(self, queue: str, now: datetime, *states: MessageState) -> Iterator[QueuedMessage]:
        """Yield the messages of a queue: running ones first, then those that wait, oldest first, then the dead.

        Args:
            queue: its name.
            now: real time.
            states: those that are wanted; all if none is named.

        Raises:
            QueueError: Redis does not answer.
        """
        wanted = set(states or MessageState)
        if wanted - {MessageState.WAITING, MessageState.DEAD}:
            for taken in self._taken(queue):
                if self._state_of(taken, now) in wanted:
                    yield from self._held(queue, taken, self._state_of(taken, now))
        if MessageState.WAITING in wanted:
            yield from self._listed(queue, self._key(queue), MessageState.WAITING)
        if MessageState.DELAYED in wanted:
            yield from self._listed(queue, self._key(f"{queue}.DQ"), MessageState.DELAYED)
        if MessageState.DEAD in wanted:
            yield from self._dead(queue)

    def why(self, message_id: str) -> str | None:
        """Tell why a message failed; None if nobody knows."""
        return cast("str | None", self._run(lambda: self._client.get(why_key(self._namespace, message_id))))

    def _key(self, name: str) -> str:
        return f"{self._namespace}:{name}"

    def _listed(self, queue: str, key: str, state: MessageState) -> Iterator[QueuedMessage]:
        last = ""
        while True:
            answer = self._ask(_LIST_PAGE, (key, f"{key}.msgs"), (last, str(PAGE_MESSAGES)))
            ids, packed = cast("tuple[list[str], list[str | None]]", answer)
            for message_id, content in zip(ids, packed, strict=True):
                yield _message(message_id, queue, state, content)
            if len(ids) < PAGE_MESSAGES:
                return
            last = ids[-1]

    def _dead(self, queue: str) -> Iterator[QueuedMessage]:
        key = self._key(f"{queue}.XQ")
        last, time_ms = "", "0"
        shown: set[str] = set()
        while True:
            answer = self._ask(_DEAD_PAGE, (key, f"{key}.msgs"), (last, str(PAGE_MESSAGES), time_ms))
            ids, packed, times = cast("tuple[list[str], list[str | None], list[str]]", answer)
            for message_id, content, failed_ms in zip(ids, packed, times, strict=True):
                if message_id not in shown:
                    yield _message(message_id, queue, MessageState.DEAD, content, failed_at=_time(failed_ms))
            if len(ids) < PAGE_MESSAGES:
                return
            last, time_ms, shown = ids[-1], times[-1], set(ids)

    def _held(self, queue: str, taken: _Taken, state: MessageState) -> Iterator[QueuedMessage]:
        source = self._key(f"{queue}.DQ.msgs" if taken.is_delayed else f"{queue}.msgs")
        ids = sorted(cast("set[str]", self._run(lambda: self._client.smembers(taken.key))))
        for start in range(0, len(ids), PAGE_MESSAGES):
            page = ids[start : start + PAGE_MESSAGES]
            packed = cast("list[str | None]", self._run(partial(self._client.hmget, source, page)))
            for message_id, content in zip(page, packed, strict=True):
                if content is not None:  # else it was finished between two questions
                    yield _message(
                        message_id, queue, state, content, worker=taken.worker, heard_at=taken.heard_at
                    )

    def _taken(self, queue: str) -> list[_Taken]:
        """List who took what from a queue; every worker that holds anything has a heartbeat."""
        beats = cast(
            "list[tuple[str, float]]",
            self._run(lambda: self._client.zrange(self._key("__heartbeats__"), 0, -1, withscores=True)),
        )
        return [
            _Taken(worker, _time(beat_ms), self._key(f"__acks__.{worker}.{name}"), name != queue)
            for worker, beat_ms in beats
            for name in (queue, f"{queue}.DQ")
        ]

    def _state_of(self, taken: _Taken, now: datetime) -> MessageState:
        if taken.is_delayed:
            return MessageState.DELAYED
        return MessageState.STRANDED if now - taken.heard_at >= self._timeout else MessageState.RUNNING

    def _ask(self, script: str, keys: Iterable[str], arguments: Iterable[str]) -> object:
        """Have the server carry out a script that reads, and refuse it anything else where the server can."""
        keys = tuple(keys)
        words = (*keys, *arguments)

        def ask() -> object:
            try:
                return self._client.eval_ro(script, len(keys), *words)
            except redis.ResponseError as error:
                if "unknown command" not in str(error).lower():  # a server before version 7
                    raise
                return self._client.eval(script, len(keys), *words)

        return self._run(ask)

    def _run(self, ask: Callable[[], object]) -> object:
        return run_on_redis(ask)


def run_on_redis(ask: Callable[[], object]) -> object:
    """Ask Redis something.

    Raises:
        QueueError: it does not answer, or refuses.
    """
    try:
        return ask()
    except redis.RedisError as error:
        raise QueueError(
            f"Redis does not answer: {error}",
            hint="Does the agent run? What is due waits in the catalogue; nothing is lost by it.",
        ) from error


def _message(
    message_id: str,
    queue: str,
    state: MessageState,
    content: str | None,
    *,
    failed_at: datetime | None = None,
    worker: str | None = None,
    heard_at: datetime | None = None,
) -> QueuedMessage:
    fields = _fields(content or "")
    options = fields.get("options")
    eta = options.get("eta") if isinstance(options, dict) else None
    actor = fields.get("actor_name")
    return QueuedMessage(
        id=message_id,
        queue=queue,
        state=state,
        actor=actor if isinstance(actor, str) else None,
        subject_id=_subject_id(fields.get("args")),
        sent_at=_sent_at(fields),
        due_at=_time(eta) if state is MessageState.DELAYED and isinstance(eta, int) else None,
        failed_at=failed_at,
        worker=worker,
        heard_at=heard_at,
    )


def _fields(content: str) -> dict[str, object]:
    """Read a message; one that somebody else wrote into our queue has no fields."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _subject_id(args: object) -> int | None:
    if isinstance(args, list) and len(args) == 1 and isinstance(args[0], int):
        return args[0]
    return None


def _sent_at(fields: dict[str, object]) -> datetime | None:
    sent_ms = fields.get("message_timestamp")
    return _time(sent_ms) if isinstance(sent_ms, int | float) else None


def _time(milliseconds: float | str) -> datetime:
    """Return the moment of a time stamp; the beginning of time if it is none."""
    try:
        return datetime.fromtimestamp(float(milliseconds) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)
