"""`rollforward queue` against a real Redis, a real catalogue and real workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
from sqlalchemy import select

from actors.broker import make_broker
from actors.hints import Hints
from actors.subjects import verification_of
from ops.redis_server import ADDRESS_NAME, keep_address, redis_address
from ops.settings import Settings
from ops.state_dir import prepare_catalogue
from policies.errors import ConfigurationError, QueueError
from storage.catalog.attempts import Admission, Moment, begin_attempt, fail_attempt
from storage.catalog.chains import chain_for
from storage.catalog.database import Catalog
from storage.catalog.folders import add_folder
from storage.catalog.holders import Holder
from storage.catalog.images import FileStamp, new_image
from storage.catalog.models import Attempt, Event, EventKind, Folder, Image, ImageState
from tests.command import Ran, in_this_process
from tests.queue_server import dramatiq_worker, redis_server, wait_until

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
PATH = "/srv/D's Müll"
NAME = "D's VÖL-b001.spf"


class Bench:
    """An agent's state directory, its catalogue with one image, and its queues."""

    def __init__(self, home: Path, url: str) -> None:
        self.home = home
        self.url = url
        self.state = home / "state"
        self.state.mkdir(mode=0o700)
        self.environment = {"REDIS_URL": url, "ROLLFORWARD_STATE": str(self.state)}
        settings = Settings.from_environment({**os.environ, **self.environment})
        self.namespace = settings.namespace
        self.catalog: Catalog = prepare_catalogue(settings.catalogue_url)
        self.hints = Hints(make_broker(url, self.namespace))
        with self.catalog.write() as session:
            folder = add_folder(session, Path(PATH), "Europe/Berlin", now=NOW, machine_now=NOW)
            session.flush()
            chain = chain_for(session, folder.id, bytes(16), "D's VÖL", 1, now=NOW)
            image = new_image(session, folder.id, FileStamp(NAME, 4096, 1), NOW, NOW)
            image.state = ImageState.LANDED
            session.flush()
            self.folder_id, self.chain_id, self.image_id = folder.id, chain.id, image.id

    def run(self, *arguments: str) -> Ran:
        with patch.dict(os.environ, self.environment):
            return in_this_process("queue", *arguments)

    def lines(self, *arguments: str) -> list[dict[str, object]]:
        ran = self.run("list", *arguments, "--json")
        assert ran.code == 0, str(ran)
        return ran.objects

    def messages(self, *arguments: str) -> list[dict[str, object]]:
        return [line for line in self.lines(*arguments) if line["kind"] == "message"]

    def work(self) -> list[dict[str, object]]:
        return [line for line in self.lines() if line["kind"] == "work"]

    def begin(self) -> Admission:
        """Begin the verification as a worker does."""
        with self.catalog.write() as session:
            image, folder = session.get_one(Image, self.image_id), session.get_one(Folder, self.folder_id)
            return begin_attempt(session, verification_of(folder, image, "1"), self.moment()).admission

    def moment(self) -> Moment:
        real = datetime.now(UTC)
        return Moment(real, real, timedelta(minutes=1), Holder.of_this_process())

    def quarantine(self) -> None:
        """Let the verification fail until it is set aside."""
        for _ in range(3):
            with self.catalog.write() as session:
                for row in session.scalars(select(Attempt)):
                    row.retry_at = None
            assert self.begin() is Admission.BEGUN
            with self.catalog.write() as session:
                (row,) = session.scalars(select(Attempt))
                fail_attempt(session, row.id, self.moment(), "it is poison")
                session.get_one(Image, self.image_id).hinted_at = NOW + timedelta(days=1)

    def events(self, kind: EventKind) -> list[Event]:
        with self.catalog.read() as session:
            return list(session.scalars(select(Event).where(Event.kind == kind)))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with redis_server(tmp_path) as url:
        made = Bench(tmp_path, url)
        yield made
        made.catalog.close()


def test_messages_are_listed_in_words(bench: Bench):
    bench.hints.image_landed(bench.image_id)
    bench.hints.folder_changed(bench.folder_id)
    bench.hints.chain_due(bench.chain_id)
    bench.hints.chain_due(4711)
    found = {line["subject"]: line for line in bench.messages()}
    assert set(found) == {
        f"{NAME} in {PATH}",
        f"folder {PATH}",
        f"chain D's VÖL-b001 in {PATH}",
        "chain 4711, which is no longer catalogued",
    }
    gone = found["chain 4711, which is no longer catalogued"]
    assert (gone["subject_gone"], gone["queue"], gone["state"]) == (True, "consolidate", "waiting")
    assert found[f"folder {PATH}"]["folder"] == PATH
    queues = {line["queue"]: line for line in bench.lines() if line["kind"] == "queue"}
    assert (queues["consolidate"]["waiting"], queues["verify"]["waiting"]) == (2, 1)
    assert [line["queue"] for line in bench.messages("--queue", "verify")] == ["verify"]
    assert bench.messages("--state-is", "dead") == []
    assert bench.messages("--older-than", "1h") == []
    assert len(bench.messages("--limit", "1")) == 1
    words = bench.run("list")
    assert words.code == 0
    assert f"{NAME} in {PATH}" in words.output
    shown = bench.run("show", str(gone["id"])[:8])
    assert "which is no longer catalogued" in shown.output


def test_a_running_message_is_filtered_by_its_worker(bench: Bench):
    bench.hints.image_landed(bench.image_id)
    with dramatiq_worker(bench.url, bench.home, bench.namespace):
        wait_until(lambda: bench.messages("--state-is", "running"), "work")
        (running,) = bench.messages("--state-is", "running")
        worker = str(running["worker"])
        assert [line["id"] for line in bench.messages("--worker", worker[:6])] == [running["id"]]
        assert bench.messages("--worker", "nobody") == []
        ran = bench.run("drop", str(running["id"]), "--json")
        assert ran.objects[0]["status"] == "dropped"
        assert "not stopped" in ran.objects[0]["text"]
        assert bench.messages()[0]["state"] == "running"


def test_a_dropped_verification_stays_dropped_until_it_is_tried_again(bench: Bench):
    bench.hints.image_landed(bench.image_id)
    (waiting,) = bench.messages()
    ran = bench.run("drop", str(waiting["id"])[:8], "--json")
    assert (ran.code, ran.objects[0]["status"]) == (0, "dropped")
    assert bench.messages() == []
    assert bench.begin() is Admission.DROPPED
    (work,) = bench.work()
    assert (work["state"], work["subject"]) == ("dropped", f"{NAME} in {PATH}")
    assert len(bench.events(EventKind.DROPPED)) == 1
    bench.hints.image_landed(bench.image_id)
    ran = bench.run("retry", str(work["id"]))
    assert "tried again with the next tick" in ran.output
    assert bench.begin() is Admission.BEGUN
    assert len(bench.events(EventKind.RETRIED)) == 1


def test_a_retry_ends_quarantine_and_sends_the_message_again(bench: Bench):
    bench.quarantine()
    assert bench.begin() is Admission.QUARANTINED
    (work,) = bench.work()
    assert (work["state"], work["failures"], work["why"]) == ("quarantined", 3, "it is poison")
    assert "it is poison" in bench.run("list").output
    assert "it is poison" in bench.run("show", str(work["id"])).output
    ran = bench.run("retry", "--all", "--state-is", "quarantined")
    assert ran.code == 0, str(ran)
    assert bench.begin() is Admission.BEGUN
    with bench.catalog.read() as session:
        assert session.get_one(Image, bench.image_id).hinted_at is None
        assert session.get_one(Folder, bench.folder_id).rescan_at < datetime.now(UTC)


def test_all_that_failed_is_sent_again_or_dropped_at_once(bench: Bench):
    for number in range(1001, 1004):
        bench.hints.folder_changed(number)
    with dramatiq_worker(bench.url, bench.home, bench.namespace):
        wait_until(lambda: len(bench.messages("--state-is", "dead")) == 3, "three failures")
    why = {str(line["why"]) for line in bench.messages()}
    assert why == {f"RuntimeError: subject {number} is poison" for number in range(1001, 1004)}
    ran = bench.run("retry", "--all", "--state-is", "dead", "--json")
    assert [line["status"] for line in ran.objects] == ["retried"] * 3
    assert [line["state"] for line in bench.messages()] == ["waiting"] * 3
    ran = bench.run("drop", "--all", "--queue", "reconcile", "--json")
    assert [line["status"] for line in ran.objects] == ["dropped"] * 3
    assert bench.messages() == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("retry",), "name what is meant"),
        (("drop", "--all"), "--all stands in the place of ids"),
        (("drop", "abcd", "--all", "--state-is", "dead"), "--all stands in the place of ids"),
        (("show", "abc"), "at least four letters"),
        (("show", "deadbeef"), "no such message"),
        (("show", "w99"), "no such work"),
        (("list", "--queue", "dreams"), "no such queue"),
    ],
)
def test_what_is_not_there_is_said_plainly(bench: Bench, arguments: tuple[str, ...], words: str):
    ran = bench.run(*arguments)
    assert ran.code == ConfigurationError.exit_code
    assert words in ran.errors


def test_redis_that_is_away(tmp_path: Path):
    (tmp_path / "state").mkdir(mode=0o700)
    with patch.dict(os.environ, {"REDIS_URL": f"unix://{tmp_path}/none.sock"}):
        ran = in_this_process("queue", "list", "--state", str(tmp_path / "state"))
    assert ran.code == QueueError.exit_code
    assert "Redis does not answer" in ran.errors
    assert "Does the agent run?" in ran.errors


def test_the_address_of_the_agents_own_redis_is_kept_for_its_owner_alone(tmp_path: Path):
    assert redis_address(tmp_path).startswith("unix://"), "where a server would be"
    for url in ("redis://:secret@127.0.0.1:4711/0", "redis://:other@127.0.0.1:4712/0"):
        keep_address(tmp_path, url)
        assert redis_address(tmp_path) == url
    assert (tmp_path / ADDRESS_NAME).stat().st_mode & 0o777 == 0o600
