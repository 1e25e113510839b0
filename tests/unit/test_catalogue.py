"""The catalogue's tables and operations, on SQLite and on PostgreSQL."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import structlog
from sqlalchemy import select
from structlog.testing import capture_logs

from actors.context import AgentContext
from policies.attempts import FIRST_WAIT
from policies.errors import BusyError, CatalogError, ConfigurationError
from policies.points import Point, PointId, Span
from storage.catalog import (
    Attempt,
    Catalog,
    Chain,
    EventKind,
    Folder,
    Image,
    ImageState,
    WorkKind,
    sqlite_url,
)
from storage.catalog.attempts import (
    Admission,
    Moment,
    Work,
    begin_attempt,
    end_attempt,
    fail_attempt,
    pause_attempt,
)
from storage.catalog.chains import base_identity, chain_for, chains_due, images_of_chain, lock_chain, make_due
from storage.catalog.events import events_after, record_event
from storage.catalog.folders import add_folder, all_folders, begin_anew, folders_due
from storage.catalog.holders import Holder
from storage.catalog.images import FileStamp, ImageFacts, new_image, restart_image, set_facts, stamp_of
from storage.catalog.leases import check_fence, give_lease_back, renew, take_lease
from storage.catalog.models import SCHEMA_REVISION
from storage.catalog.points import span_of

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ME = Holder.of_this_process()
GONE = dataclasses.replace(ME, started_ticks=1)
ELSEWHERE = dataclasses.replace(ME, host="another.example")
WORK = Work(WorkKind.VERIFY, "/images/A-b001.spf 10 20", "1.0")
POINTS = tuple(
    Point(PointId(bytes([number]) * 16), number, NOON + number * MINUTE, 1 << 40) for number in range(3)
)


def moment(holder: Holder = ME, *, after: timedelta = timedelta(0)) -> Moment:
    return Moment(NOON + after, NOON + after, MINUTE, holder)


def make_chain(catalog: Catalog) -> tuple[int, int]:
    with catalog.write() as session:
        folder = add_folder(session, Path("/images"), "UTC", now=NOON, machine_now=NOON)
        chain = chain_for(session, folder.id, b"c" * 16, "A", 1, now=NOON)
        return folder.id, chain.id


def make_image(catalog: Catalog, folder_id: int, chain_id: int, name: str, state: ImageState) -> int:
    with catalog.write() as session:
        image = new_image(session, folder_id, FileStamp(name, 10, 20), NOON, NOON)
        set_facts(image, ImageFacts(chain_id, b"r" * 32, POINTS[0], POINTS[1:]))
        image.state = state
        session.flush()
        return image.id


# --- opening


def test_sqlite_is_durable_and_waits(tmp_path: Path):
    catalog = Catalog(sqlite_url(tmp_path / "c.sqlite"))
    with catalog.read() as session:
        connection = session.connection()
        pragma = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    catalog.close()
    assert pragma == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 15_000}


def test_preparing_again_changes_nothing(catalog: Catalog):
    make_chain(catalog)
    catalog.prepare()
    with catalog.read() as session:
        assert len(all_folders(session)) == 1


def test_a_later_version_is_refused_with_a_way_out(catalog: Catalog):
    with catalog.write() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '0099'")
    with pytest.raises(CatalogError, match="later version") as caught:
        catalog.prepare()
    assert (caught.value.expected, caught.value.actual) == (SCHEMA_REVISION, "0099")
    assert "built anew" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("url", "words"), [("mysql://db/x", "SQLite or PostgreSQL"), ("nonsense", "not a database URL")]
)
def test_other_databases_are_refused(url: str, words: str):
    with pytest.raises(ConfigurationError, match=words):
        Catalog(url)


def test_a_broken_file_is_an_error_of_ours(tmp_path: Path):
    (tmp_path / "c.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(CatalogError, match="not a database"):
        Catalog(sqlite_url(tmp_path / "c.sqlite")).prepare()


def test_an_error_undoes_the_transaction(catalog: Catalog):
    def add_and_fail() -> None:
        with catalog.write() as session:
            add_folder(session, Path("/x"), "UTC", now=NOON, machine_now=NOON)
            raise BusyError("stop")

    with pytest.raises(BusyError):
        add_and_fail()
    with catalog.read() as session:
        assert not all_folders(session)


def test_naive_times_are_a_mistake(catalog: Catalog):
    with pytest.raises(CatalogError, match="timezone-aware"), catalog.write() as session:
        add_folder(session, Path("/x"), "UTC", now=datetime(2026, 1, 1), machine_now=NOON)  # noqa: DTZ001


def test_times_come_back_in_utc(catalog: Catalog):
    far = NOON.astimezone(timezone(timedelta(hours=9)))
    with catalog.write() as session:
        add_folder(session, Path("/x"), "UTC", now=far, machine_now=far)
    with catalog.read() as session:
        added = all_folders(session)[0].added_at
    assert (added, added.tzinfo) == (NOON, UTC)


def test_writers_wait_for_each_other(catalog: Catalog):
    _, chain_id = make_chain(catalog)

    def count_up() -> None:
        for _ in range(20):
            with catalog.write() as session:
                chain = lock_chain(session, chain_id)
                assert chain is not None
                chain.fence += 1

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with catalog.read() as session:
        assert session.get_one(Chain, chain_id).fence == 80


# --- folders, chains, images, events


def test_only_what_is_due_is_read(catalog: Catalog):
    folder_id, chain_id = make_chain(catalog)
    with catalog.write() as session:
        session.get_one(Folder, folder_id).rescan_at = NOON + MINUTE
        session.get_one(Chain, chain_id).next_due_at = NOON + MINUTE
    with catalog.read() as session:
        assert folders_due(session, NOON) == []
        assert chains_due(session, NOON) == []
        assert folders_due(session, NOON + MINUTE) == [folder_id]
        assert chains_due(session, NOON + MINUTE) == [(chain_id, NOON + MINUTE)]
    with catalog.write() as session:
        begin_anew(session, NOON)
        make_due(session, chain_id, NOON)
        make_due(session, 99, NOON)
    with catalog.read() as session:
        assert folders_due(session, NOON) == [folder_id]
        assert chains_due(session, NOON) == [(chain_id, NOON)]


def test_what_is_due_is_named_in_the_order_of_folders(catalog: Catalog):
    names = {}
    with catalog.write() as session:
        for place, (path, priority) in enumerate((("/a", None), ("/b", 200), ("/c", 0), ("/d", 200))):
            folder = add_folder(session, Path(path), "UTC", now=NOON, machine_now=NOON - place * MINUTE)
            folder.sort_priority = priority
            names[folder.id] = path
            for number in (1, 2):
                due_at = NOON - (place + number) * MINUTE
                chain = chain_for(session, folder.id, b"c" * 16, "A", number, now=due_at)
                names[-chain.id] = f"{path}{number}"
    with catalog.read() as session:
        assert [names[folder_id] for folder_id in folders_due(session, NOON)] == ["/c", "/b", "/d", "/a"]
        assert [names[folder_id] for folder_id in folders_due(session, NOON, limit=2)] == ["/c", "/d"]
        chains = [names[-chain_id] for chain_id, _ in chains_due(session, NOON)]
        assert chains == ["/c2", "/c1", "/b2", "/b1", "/d2", "/d1", "/a2", "/a1"]
        chains = [names[-chain_id] for chain_id, _ in chains_due(session, NOON, limit=3)]
        assert chains == ["/c2", "/d2", "/d1"]


def test_a_start_forgets_hints_that_may_be_lost(catalog: Catalog):
    folder_id, chain_id = make_chain(catalog)
    image_id = make_image(catalog, folder_id, chain_id, "A-b001-i002.spi", ImageState.LANDED)
    with catalog.write() as session:
        session.get_one(Image, image_id).hinted_at = NOON
    with catalog.write() as session:
        begin_anew(session, NOON)
    with catalog.read() as session:
        assert session.get_one(Image, image_id).hinted_at is None


def test_a_folder_is_managed_once(catalog: Catalog):
    folder_id, _ = make_chain(catalog)
    with catalog.write() as session:
        again = add_folder(session, Path("/images"), "Europe/Berlin", now=NOON, machine_now=NOON)
        assert (again.id, again.time_zone) == (folder_id, "Europe/Berlin")
    with catalog.read() as session:
        assert [event.kind for event in events_after(session, 0)] == [EventKind.FOLDER_ADDED]


def test_an_image_gives_back_its_span(catalog: Catalog):
    folder_id, chain_id = make_chain(catalog)
    image_id = make_image(catalog, folder_id, chain_id, "A-b001-i002.spi", ImageState.GOOD)
    with catalog.read() as session:
        image = session.get_one(Image, image_id)
        assert span_of(image) == Span("A-b001-i002.spi", POINTS[0], POINTS[1:], 10, verified=True)
        assert stamp_of(image) == FileStamp("A-b001-i002.spi", 10, 20)
    with catalog.write() as session:
        image = session.get_one(Image, image_id)
        restart_image(image, FileStamp(image.name, 11, 21), NOON)
        assert (span_of(image), image.root, image.state) == (None, None, ImageState.SETTLING)


def test_a_chain_is_made_of_what_is_there_and_not_bad(catalog: Catalog):
    folder_id, chain_id = make_chain(catalog)
    for number, state in enumerate(ImageState):
        make_image(catalog, folder_id, chain_id, f"A-b001-i00{number}.spi", state)
    with catalog.read() as session:
        states = {image.state for image in images_of_chain(session, chain_id)}
    assert states == {ImageState.SETTLING, ImageState.LANDED, ImageState.VERIFYING, ImageState.GOOD}


def test_a_base_says_which_chain_a_name_belongs_to(catalog: Catalog):
    folder_id, chain_id = make_chain(catalog)
    image_id = make_image(catalog, folder_id, chain_id, "A-b001.spf", ImageState.LANDED)
    with catalog.write() as session:
        assert base_identity(session, folder_id, "A", 1) is None
        session.get_one(Image, image_id).state = ImageState.GOOD
    with catalog.read() as session:
        assert base_identity(session, folder_id, "A", 1) == b"c" * 16
        assert base_identity(session, folder_id, "A", 2) is None


def test_events_come_in_order(catalog: Catalog):
    with catalog.write() as session:
        for number in range(5):
            record_event(
                session, EventKind.LANDED, f"{number}", "text", at=NOON, machine_now=NOON, facts={"n": number}
            )
    with catalog.read() as session:
        assert [event.facts["n"] for event in events_after(session, 2)] == [2, 3, 4]
        assert [event.subject for event in events_after(session, 0, limit=2)] == ["0", "1"]


# --- holders


def test_a_holder_is_written_and_read():
    odd = Holder("host with spaces", "boot", 12, 34)
    assert Holder.parse(str(odd)) == odd


def test_a_living_process_is_not_gone_and_an_ended_one_is():
    assert not ME.is_gone()
    assert GONE.is_gone()
    assert not ELSEWHERE.is_gone()
    assert dataclasses.replace(ME, boot="an earlier one").is_gone()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        other = dataclasses.replace(ME, pid=child.pid, started_ticks=int(fields[19]))
        assert not other.is_gone()
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert other.is_gone()  # though its remains are still there


# --- leases


def test_a_lease_excludes_until_it_is_given_back(catalog: Catalog):
    _, chain_id = make_chain(catalog)
    with catalog.write() as session:
        first = take_lease(session, chain_id, ME, machine_now=NOON, lease_time=MINUTE)
    assert first == 1
    with catalog.write() as session:
        assert take_lease(session, chain_id, ME, machine_now=NOON, lease_time=MINUTE) is None
        give_lease_back(session, chain_id, 1)
    with catalog.write() as session:
        assert take_lease(session, chain_id, ELSEWHERE, machine_now=NOON, lease_time=MINUTE) == 2
        give_lease_back(session, chain_id, 1)  # too late: it is another's now
    with catalog.write() as session:
        assert take_lease(session, chain_id, ME, machine_now=NOON, lease_time=MINUTE) is None
        assert take_lease(session, 99, ME, machine_now=NOON, lease_time=MINUTE) is None


def test_a_lease_ends_with_its_holder_or_its_time(catalog: Catalog):
    _, chain_id = make_chain(catalog)
    with catalog.write() as session:
        take_lease(session, chain_id, GONE, machine_now=NOON, lease_time=MINUTE)
    with catalog.write() as session:
        assert take_lease(session, chain_id, ELSEWHERE, machine_now=NOON, lease_time=MINUTE) == 2
    with catalog.write() as session:
        renew(session, ELSEWHERE, (), [chain_id], expires_at=NOON + 2 * MINUTE)
    with catalog.write() as session:
        assert take_lease(session, chain_id, ME, machine_now=NOON + MINUTE, lease_time=MINUTE) is None
        assert take_lease(session, chain_id, ME, machine_now=NOON + 2 * MINUTE, lease_time=MINUTE) == 3


def test_a_result_under_an_old_fence_is_not_recorded(catalog: Catalog):
    _, chain_id = make_chain(catalog)
    with catalog.write() as session:
        take_lease(session, chain_id, GONE, machine_now=NOON, lease_time=MINUTE)
        take_lease(session, chain_id, ME, machine_now=NOON, lease_time=MINUTE)
    with catalog.write() as session:
        assert check_fence(session, chain_id, 2).id == chain_id
        with pytest.raises(BusyError, match="took the chain over"):
            check_fence(session, chain_id, 1)
        with pytest.raises(CatalogError, match="no longer catalogued"):
            check_fence(session, 99, 1)


# --- attempts


def test_work_that_goes_well_leaves_no_trace(catalog: Catalog):
    with catalog.write() as session:
        begun = begin_attempt(session, WORK, moment())
    assert begun.admission is Admission.BEGUN
    with catalog.write() as session:
        elsewhere = begin_attempt(session, WORK, moment(ELSEWHERE))
        assert elsewhere.admission is Admission.RUNNING
        assert elsewhere.retry_at == moment().now + FIRST_WAIT  # whoever is at it may be gone by then
        assert not end_attempt(session, begun.attempt_id, ELSEWHERE)
        assert end_attempt(session, begun.attempt_id, ME)
    with catalog.read() as session:
        assert session.get(Attempt, begun.attempt_id) is None


def test_failures_back_off_and_end_in_quarantine(catalog: Catalog):
    now = timedelta(0)
    for failure in (1, 2, 3):
        with catalog.write() as session:
            begun = begin_attempt(session, WORK, moment(after=now))
            assert begun.admission is Admission.BEGUN
        with catalog.write() as session:
            verdict = fail_attempt(session, begun.attempt_id, moment(after=now), f"reason {failure}")
        assert verdict is not None
        assert verdict.quarantined is (failure == 3)
        with catalog.write() as session:
            held = begin_attempt(session, WORK, moment(after=now))
        assert held.admission is (Admission.QUARANTINED if failure == 3 else Admission.WAITING)
        assert held.reason == f"reason {failure}"
        now += verdict.wait
    with catalog.write() as session:
        other = dataclasses.replace(WORK, subject="/images/A-b001.spf 10 21")
        newer = dataclasses.replace(WORK, engine_version="1.1")
        assert begin_attempt(session, other, moment()).admission is Admission.BEGUN
        assert begin_attempt(session, newer, moment()).admission is Admission.BEGUN


def test_trouble_that_may_pass_is_never_quarantined(catalog: Catalog):
    now, waits = timedelta(0), []
    for _ in range(8):
        with catalog.write() as session:
            begun = begin_attempt(session, WORK, moment(after=now))
        with catalog.write() as session:
            verdict = fail_attempt(session, begun.attempt_id, moment(after=now), "disk full", may_pass=True)
        assert verdict is not None
        assert not verdict.quarantined
        waits.append(verdict.wait)
        now += verdict.wait
    assert waits == sorted(waits)
    assert waits[-1] == timedelta(hours=1)


def test_crashes_are_counted_by_the_next_beginning(catalog: Catalog):
    with catalog.write() as session:
        begin_attempt(session, WORK, moment(GONE))
    with catalog.write() as session:
        again = begin_attempt(session, WORK, moment(GONE))
    assert again.admission is Admission.BEGUN  # once may be anybody's fault
    with catalog.write() as session:
        waiting = begin_attempt(session, WORK, moment(GONE))
        assert (waiting.admission, waiting.newly) == (Admission.WAITING, True)
    with catalog.write() as session:
        begin_attempt(session, WORK, moment(GONE, after=MINUTE))
    with catalog.write() as session:
        ended = begin_attempt(session, WORK, moment(after=2 * MINUTE))
    assert (ended.admission, ended.newly) == (Admission.QUARANTINED, True)
    with catalog.write() as session:
        assert not begin_attempt(session, WORK, moment(after=MINUTE)).newly


def test_nothing_innocent_is_set_aside_with_what_ends_its_worker(catalog: Catalog):
    """Poison, and long work beside it, are begun together in worker after worker; each time both are cut off."""
    innocent = dataclasses.replace(WORK, kind=WorkKind.CONSOLIDATE, subject="all of March", title="March")
    workers = [dataclasses.replace(ME, pid=10_000 + number) for number in range(5)]
    gone = [dataclasses.replace(worker, started_ticks=1) for worker in workers]
    now = timedelta(0)
    for holder in gone[:2]:
        with catalog.write() as session:
            for work in (WORK, innocent):
                assert begin_attempt(session, work, moment(holder, after=now)).admission is Admission.BEGUN
    with catalog.write() as session:
        for work in (WORK, innocent):
            assert begin_attempt(session, work, moment(gone[2])).admission is Admission.WAITING
    now = MINUTE
    with catalog.write() as session:
        alone = begin_attempt(session, innocent, moment(ME, after=now))
        assert alone.admission is Admission.BEGUN
        poison = begin_attempt(session, WORK, moment(ME, after=now))
        assert poison.admission is Admission.WAITING
        assert poison.reason == "its worker ended 2 times: it is tried alone, once March is done"
        assert poison.retry_at is not None
        other = dataclasses.replace(WORK, subject="another")
        beside = begin_attempt(session, other, moment(ME, after=now))
        assert (beside.admission, "March, which is tried alone" in beside.reason) == (Admission.WAITING, True)
        assert begin_attempt(session, other, moment(ELSEWHERE, after=now)).admission is Admission.BEGUN
        assert end_attempt(session, alone.attempt_id, ME)
        assert session.scalars(select(Attempt.subject)).all() == [WORK.subject, "another"]
    with catalog.write() as session:
        assert begin_attempt(session, WORK, moment(gone[3], after=now)).admission is Admission.BEGUN
    with catalog.write() as session:
        assert begin_attempt(session, innocent, moment(ME, after=now)).admission is Admission.BEGUN
        assert begin_attempt(session, WORK, moment(ME, after=now)).admission is Admission.QUARANTINED


def test_a_pause_is_neither_failure_nor_crash(catalog: Catalog):
    with catalog.write() as session:
        begun = begin_attempt(session, WORK, moment())
        pause_attempt(session, begun.attempt_id, ME)
    with catalog.write() as session:
        row = session.get_one(Attempt, begun.attempt_id)
        assert (row.failures, row.crashes, row.holder) == (0, 0, None)
        assert begin_attempt(session, WORK, moment()).admission is Admission.BEGUN


def test_an_attempt_taken_over_is_not_failed_by_its_former_holder(catalog: Catalog):
    with catalog.write() as session:
        begun = begin_attempt(session, WORK, moment(ELSEWHERE))
        assert fail_attempt(session, begun.attempt_id, moment(), "late") is None


# --- what is said of it


def test_nothing_is_said_of_what_was_not_recorded(catalog: Catalog, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("actors.context._log", structlog.get_logger("agent"))  # one that is not yet bound
    context = AgentContext(catalog, lambda: NOON, lambda: NOON, "1")

    def fail() -> None:
        with catalog.write() as session:
            context.note(session, EventKind.LANDED, "A-b001.spf", "a base landed")
            raise ValueError("the disk is full")

    with capture_logs() as said:
        with pytest.raises(ValueError):
            fail()
        assert said == []
        with catalog.write() as session:
            for subject in ("B-b001.spf", "C-b001.spf"):
                context.note(session, EventKind.FAILED, subject, "cannot be read")
            assert said == []
    assert [(line["subject"], line["log_level"]) for line in said] == [
        ("B-b001.spf", "warning"),
        ("C-b001.spf", "warning"),
    ]
