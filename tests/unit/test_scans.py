"""Scans of a folder: in batches, never in the way of others, and never taken in by an empty mount point."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from sqlalchemy import event, select

from actors import reconcile
from actors.context import AgentContext, Pace
from actors.hints import Hints
from actors.patience import patiently
from actors.presence import MARK
from actors.reconcile import reconcile_folder
from policies.errors import StorageError
from policies.names import ImageName
from storage.capture import capture
from storage.catalog import Catalog, Event, EventKind, Folder, Image, ImageState, sqlite_url
from storage.catalog.folders import add_folder
from storage.folder import FoundImage, look_at
from tests.waiting import wait_for

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


class Bench:
    """A managed folder, a catalogue, and a scan at the press of a button."""

    def __init__(self, work_dir: Path) -> None:
        self.folder = work_dir / "images"
        self.folder.mkdir()
        self.catalog = Catalog(sqlite_url(work_dir / "catalogue.sqlite"))
        self.catalog.prepare()
        self.now = NOON
        self.context = AgentContext(
            self.catalog, lambda: self.now, lambda: self.now, "1", Pace(silence=timedelta(seconds=0.2))
        )
        with self.catalog.write() as session:
            self.id = add_folder(session, self.folder, "UTC", now=NOON, machine_now=NOON).id
        broker: dramatiq.Broker = StubBroker()
        for queue in ("reconcile", "verify", "consolidate"):
            broker.declare_queue(queue)
        self.hints = Hints(broker)

    def scan(self) -> None:
        reconcile_folder(self.context, self.hints, self.id)

    def put(self, count: int) -> None:
        for number in range(1, count + 1):
            (self.folder / f"V-b001-i{number:03d}.spi").write_bytes(b"not much")

    def states(self) -> dict[str, ImageState]:
        with self.catalog.read() as session:
            return {image.name: image.state for image in session.scalars(select(Image))}

    def problem(self) -> str | None:
        with self.catalog.read() as session:
            return session.get_one(Folder, self.id).problem

    def told(self, *kinds: EventKind) -> list[str]:
        with self.catalog.read() as session:
            return list(session.scalars(select(Event.kind).where(Event.kind.in_(kinds)).order_by(Event.id)))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.catalog.close()


GONE_AND_BACK = (EventKind.FOLDER_LOST, EventKind.FOLDER_BACK, EventKind.MISSING)


def test_a_large_folder_is_taken_in_in_batches(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reconcile, "BATCH_IMAGES", 10)
    sizes: list[int] = []
    event.listen(bench.catalog._engine, "commit", lambda _: sizes.append(0))
    bench.scan()  # which adopts the folder
    sizes.clear()
    bench.put(35)
    bench.scan()
    assert len(bench.states()) == 35
    assert len(sizes) >= 4 + 1  # one that sets when to scan again, and some of the ledger's
    bench.now += timedelta(minutes=1)
    bench.scan()
    assert set(bench.states().values()) == {ImageState.LANDED}
    for path in bench.folder.glob("*.spi"):
        path.unlink()
    bench.scan()
    assert set(bench.states().values()) == {ImageState.MISSING}


def test_a_scan_that_is_behind_the_times_takes_nothing_back(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.put(2)
    first, second = sorted(bench.folder.glob("*.spi"))
    look = reconcile._look_inside

    def overtaken(*arguments: object) -> object:
        found = look(*arguments)  # type: ignore[arg-type]
        monkeypatch.setattr(reconcile, "_look_inside", look)
        first.write_bytes(b"written to meanwhile")
        bench.scan()
        return found

    monkeypatch.setattr(reconcile, "_look_inside", overtaken)
    bench.scan()
    with bench.catalog.read() as session:
        sizes = {image.name: image.stored_bytes for image in session.scalars(select(Image))}
        assert session.get_one(Folder, bench.id).rescan_at <= bench.now + timedelta(seconds=1)
    assert sizes == {first.name: len(b"written to meanwhile"), second.name: len(b"not much")}


@pytest.mark.parametrize("what", ["its end is missing", "its last bytes are other ones", "it goes away"])
def test_a_copy_that_ends_between_listing_and_looking(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str, tmp_path: Path
):
    source = tmp_path / "v.raw"
    source.write_bytes(random.Random(1).randbytes(1 << 16))
    made = capture(source, tmp_path, "V", now=NOON).path
    whole, copy = made.read_bytes(), bench.folder / made.name
    copy.write_bytes(whole[:-100] if what == "its end is missing" else whole[:-1] + b"?")
    os.utime(copy, ns=(1, 1))

    def end_the_copy(path: Path, name: ImageName, numbers: Sequence[int]) -> FoundImage:
        if path.stat().st_mtime_ns == 1:
            path.write_bytes(whole)
        found = look_at(path, name, numbers)
        if what == "it goes away":
            path.unlink()
        return found

    monkeypatch.setattr(reconcile, "look_at", end_the_copy)
    bench.scan()
    assert bench.states() == {}
    with bench.catalog.read() as session:
        assert session.get_one(Folder, bench.id).rescan_at < NOON + timedelta(seconds=1)
    bench.scan()
    assert bench.states() == ({} if what == "it goes away" else {made.name: ImageState.LANDED})
    assert not bench.told(EventKind.CHANGED, EventKind.MISSING)


def test_an_empty_mount_point_is_a_lost_folder_not_lost_images(bench: Bench):
    bench.put(3)
    bench.scan()
    assert (bench.folder / MARK).is_dir()
    before = bench.states()
    away = bench.folder.rename(bench.folder.with_name("unplugged"))
    bench.scan()
    assert bench.problem() == "No such file or directory"
    bench.folder.mkdir()
    for _ in range(3):
        bench.scan()
        assert "seems not to be mounted" in (bench.problem() or "")
    assert bench.states() == before
    bench.folder.rmdir()
    away.rename(bench.folder)
    bench.scan()
    assert bench.problem() is None
    assert bench.states() == before
    assert bench.told(*GONE_AND_BACK) == [EventKind.FOLDER_LOST, EventKind.FOLDER_BACK]


def test_an_empty_mount_point_is_not_marked_before_its_drive_is_there(bench: Bench):
    bench.scan()
    assert list(bench.folder.iterdir()) == []


def test_deleted_images_are_missing(bench: Bench):
    bench.put(3)
    bench.scan()
    for path in bench.folder.glob("*.spi"):
        path.unlink()
    bench.scan()
    assert bench.problem() is None
    assert set(bench.states().values()) == {ImageState.MISSING}


def test_a_new_start_in_an_emptied_folder_counts(bench: Bench):
    bench.put(3)
    bench.scan()
    bench.folder.rename(bench.folder.with_name("old"))
    bench.folder.mkdir()
    (bench.folder / "W-b001.spf").write_bytes(b"a new volume")
    bench.scan()
    assert bench.problem() is None
    assert bench.states()["V-b001-i001.spi"] is ImageState.MISSING
    assert "W-b001.spf" in bench.states()


def test_a_folder_that_does_not_answer_is_lost_until_it_does(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.put(2)
    bench.scan()
    answers, asked = threading.Event(), []
    listing = reconcile.list_images

    def silent(folder: Path, **more: object) -> object:
        asked.append(folder)
        answers.wait()
        return listing(folder, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(reconcile, "list_images", silent)
    for _ in range(3):
        bench.scan()
        assert bench.problem() == "does not answer"
    assert len(asked) == 1  # while one question waits, no other is put
    answers.set()

    def is_back() -> bool:
        bench.scan()
        return bench.problem() is None

    wait_for(is_back, "the folder to be back")
    assert len(bench.states()) == 2
    assert bench.told(*GONE_AND_BACK) == [EventKind.FOLDER_LOST, EventKind.FOLDER_BACK]


# --- patience


def test_an_answer_and_an_error_come_through():
    assert patiently("here", 60, lambda _: 7) == 7
    with pytest.raises(ZeroDivisionError):
        patiently("here", 60, lambda _: 1 // 0)


def test_whoever_answers_now_and_then_is_waited_for():

    def slow(answered: object) -> int:
        for _ in range(12):
            threading.Event().wait(0.2)
            answered()  # type: ignore[operator]
        return 12

    assert patiently("slow", 2, slow) == 12


def test_what_was_given_up_ends_at_its_next_answer():
    go_on, ended = threading.Event(), threading.Event()

    def work(answered: object) -> None:
        go_on.wait()
        try:
            answered()  # type: ignore[operator]
        finally:
            ended.set()

    with pytest.raises(StorageError, match="does not answer"):
        patiently("there", 0.1, work)
    with pytest.raises(StorageError, match="does not answer"):
        patiently("there", 60, lambda _: 7)
    go_on.set()
    assert ended.wait(60)

    def is_free() -> bool:
        try:
            return patiently("there", 60, lambda _: True)
        except StorageError:
            return False

    wait_for(is_free, "the place to be free again")


def test_who_answers_does_not_speak_for_who_does_not():
    hang, go_on = threading.Event(), threading.Event()
    other = threading.Thread(target=lambda: patiently("nas", 60, lambda _: go_on.wait()))
    other.start()
    with pytest.raises(StorageError, match="does not answer"):
        patiently("nas", 0.1, lambda _: hang.wait())
    go_on.set()
    other.join()
    with pytest.raises(StorageError, match="does not answer"):
        patiently("nas", 60, lambda _: 7)
    hang.set()
    wait_for(lambda: _answers("nas"), "the place to answer again")


def _answers(place: str) -> bool:
    try:
        return patiently(place, 60, lambda _: True)
    except StorageError:
        return False
