"""Queues of a real Redis with real Dramatiq workers: looked at without a change, sent again, dropped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis

from actors.broker import make_broker
from actors.hints import JOBS, Hints
from actors.queue_changes import Change, QueueChanges
from actors.queues import MessageState, QueuedMessage, QueueReader
from policies.errors import QueueError
from tests.checks.queues import packed, read_long_queue
from tests.queue_server import NAMESPACE, all_keys, dramatiq_worker, redis_server, wait_until


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with redis_server(tmp_path) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url, decode_responses=True) as connected:
        yield connected


@pytest.fixture
def reader(client: redis.Redis) -> QueueReader:
    return QueueReader(client, NAMESPACE, [job.queue for job in JOBS])


@pytest.fixture
def hints(url: str) -> Hints:
    return Hints(make_broker(url, NAMESPACE))


def now() -> datetime:
    return datetime.now(UTC)


def states(reader: QueueReader, at: datetime | None = None) -> dict[str, list[tuple[int | None, str]]]:
    return {
        queue: [(each.subject_id, each.state.value) for each in reader.messages(queue, at or now())]
        for queue in reader.queues
        if any(True for _ in reader.messages(queue, at or now()))
    }


def test_looking_changes_nothing_whatever_the_messages_are_doing(tmp_path, url, client, reader, hints):
    for subject_id in (1, 2, 3, 1001):
        hints.image_landed(subject_id)
    hints.folder_changed(7)
    with dramatiq_worker(url, tmp_path):
        wait_until(lambda: (tmp_path / "verify-1").exists() and (tmp_path / "reconcile-7").exists(), "work")
        before = all_keys(client)
        found = states(reader)
        counts = {each.queue: each for each in reader.counts(now())}
        assert all_keys(client) == before
        assert found["reconcile"] == [(7, "running")]
        assert found["verify"][0] == (1, "running")
        assert [each for each in found["verify"] if each[1] == "waiting"] == [
            (2, "waiting"),
            (3, "waiting"),
            (1001, "waiting"),
        ]
        assert counts["verify"].by_state[MessageState.RUNNING] == 1
        assert counts["verify"].by_state[MessageState.WAITING] == 3
        oldest = counts["verify"].oldest_sent_at
        assert oldest is not None
        assert now() - oldest < timedelta(hours=1)
        running = next(iter(reader.messages("verify", now(), MessageState.RUNNING)))
        assert running.worker
        assert running.heard_at is not None
        assert running.actor == "verify_image"


def test_what_fails_is_dead_and_says_why_until_it_is_sent_again(tmp_path, url, client, reader, hints):
    changes = QueueChanges(client, NAMESPACE)
    hints.image_landed(1001)
    with dramatiq_worker(url, tmp_path):
        wait_until(lambda: states(reader).get("verify") == [(1001, "dead")], "the failure")
        (dead,) = reader.messages("verify", now(), MessageState.DEAD)
        assert reader.why(dead.id) == "RuntimeError: subject 1001 is poison"
        assert dead.failed_at is not None
        (tmp_path / "verify-1001").unlink()
        assert changes.send_again(dead, now()) is Change.DONE
        wait_until((tmp_path / "verify-1001").exists, "the second try")
        wait_until(lambda: states(reader).get("verify") == [(1001, "dead")], "the second failure")
    assert changes.send_again(dead, now()) is Change.DONE
    assert changes.send_again(dead, now()) is Change.MOVED_ON
    assert states(reader) == {"verify": [(1001, "waiting")]}
    (waiting,) = reader.messages("verify", now())
    assert changes.send_again(waiting, now()) is Change.NEEDLESS
    assert changes.drop(waiting) is Change.DONE
    assert changes.drop(waiting) is Change.MOVED_ON
    assert states(reader) == {}


def test_a_dead_message_that_is_dropped_leaves_nothing(tmp_path, url, client, reader, hints):
    hints.image_landed(1001)
    with dramatiq_worker(url, tmp_path):
        wait_until(lambda: states(reader).get("verify") == [(1001, "dead")], "the failure")
    (dead,) = reader.messages("verify", now())
    assert QueueChanges(client, NAMESPACE).drop(dead) is Change.DONE
    assert [key for key in client.scan_iter() if "__heartbeats__" not in key] == []


def test_a_message_whose_worker_was_killed_is_stranded_and_is_done_after_all(
    tmp_path, url, client, reader, hints
):
    changes = QueueChanges(client, NAMESPACE)
    hints.image_landed(5)
    with dramatiq_worker(url, tmp_path) as worker:
        wait_until((tmp_path / "verify-5").exists, "work")
        (running,) = reader.messages("verify", now())
        assert running.state is MessageState.RUNNING
        assert changes.drop(running) is Change.RUNNING
        os.kill(worker.pid, 9)
        worker.wait()
    later = now() + timedelta(minutes=1)
    before = all_keys(client)
    assert states(reader, later) == {"verify": [(5, "stranded")]}
    (stranded,) = reader.messages("verify", later, MessageState.STRANDED)
    assert all_keys(client) == before
    assert changes.send_again(stranded, now() - timedelta(minutes=1)) is Change.MOVED_ON, "it may live"
    assert changes.send_again(stranded, later) is Change.DONE
    assert changes.send_again(stranded, later) is Change.MOVED_ON
    assert states(reader) == {"verify": [(5, "waiting")]}
    (tmp_path / "verify-5").unlink()
    (tmp_path / "go").touch()
    with dramatiq_worker(url, tmp_path):
        wait_until(lambda: (tmp_path / "verify-5").exists() and states(reader) == {}, "the second worker")


def test_delayed_messages_are_shown_with_their_time(url, reader):
    broker = make_broker(url, NAMESPACE)
    broker.declare_queue("verify")
    import dramatiq

    message: dramatiq.Message[None] = dramatiq.Message(
        queue_name="verify", actor_name="verify_image", args=(9,), kwargs={}, options={}
    )
    broker.enqueue(message, delay=3_600_000)
    (delayed,) = reader.messages("verify", now())
    assert delayed.state is MessageState.DELAYED
    assert delayed.due_at is not None
    assert timedelta(minutes=50) < delayed.due_at - now() < timedelta(minutes=70)
    assert reader.counts(now())[1].by_state[MessageState.DELAYED] == 1


def test_a_queue_that_moves_while_it_is_read(client, reader):
    """Messages leave at the head and come at the end; what stays is shown once, whatever page it is on."""
    key = f"{NAMESPACE}:verify"
    for number in range(1_000):
        client.hset(f"{key}.msgs", f"id-{number}", packed("verify", number, f"id-{number}", 0))
        client.rpush(key, f"id-{number}")
    seen = []
    for message in reader.messages("verify", now(), MessageState.WAITING):
        seen.append(message.subject_id)
        if len(seen) % 70 == 0:
            for gone in client.lpop(key, 90) or []:
                client.hdel(f"{key}.msgs", gone)
            if len(seen) < 500:
                added = 1_000 + len(seen)
                client.hset(f"{key}.msgs", f"id-{added}", packed("verify", added, f"id-{added}", 0))
                client.rpush(key, f"id-{added}")
    assert len(seen) == len(set(seen))
    left = {int(each.removeprefix("id-")) for each in client.lrange(key, 0, -1)}
    assert left <= set(seen)


def test_what_others_wrote_into_a_queue_is_shown_for_what_it_is(client, reader):
    key = f"{NAMESPACE}:verify"
    odd = {
        "a": "Dear diary",
        "b": "[1, 2]",
        "c": '{"args": ["x"], "message_timestamp": 1e300}',
        "d": "[" * 5000,
    }
    for message_id, content in odd.items():
        client.hset(f"{key}.msgs", message_id, content)
        client.rpush(key, message_id)
    client.rpush(key, "without content")
    found = list(reader.messages("verify", now()))
    assert [each.id for each in found] == [*odd, "without content"]
    assert all(each.subject_id is None for each in found)
    assert QueueChanges(client, NAMESPACE).drop(found[0]) is Change.DONE
    assert reader.counts(now())[1].by_state[MessageState.WAITING] == 4


def test_a_long_queue_is_read_in_bounded_memory(client):
    read_long_queue(client, NAMESPACE, 5_000, 8 << 20)


def test_redis_that_is_away_is_said_plainly(tmp_path):
    with redis.Redis(unix_socket_path=str(tmp_path / "none.sock"), decode_responses=True) as client:
        reader = QueueReader(client, NAMESPACE, ["verify"])
        message = QueuedMessage("x", "verify", MessageState.WAITING)
        for ask in (
            lambda: reader.counts(now()),
            lambda: list(reader.messages("verify", now())),
            lambda: reader.why("x"),
            lambda: QueueChanges(client, NAMESPACE).drop(message),
        ):
            with pytest.raises(QueueError, match="Redis does not answer"):
                ask()
