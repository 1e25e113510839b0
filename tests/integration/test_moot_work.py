"""Work that went wrong and is not to be done any more is forgotten; what is still to be done is not."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select

from actors.moot import forget_moot_work
from actors.subjects import verification_of
from ops.clock import machine_now
from policies.points import Point
from storage.catalog import Attempt, Folder, ImageState, WorkKind
from storage.catalog.attempts import Work, begin_attempt, end_attempt
from storage.catalog.folders import remove_folder
from storage.catalog.images import FileStamp, new_image, set_found_good
from storage.catalog.points import pack_point
from tests.bed import quick_folder
from tests.checks.fortnight import FIRST, midnight_after
from tests.household import Household, Source

DAILY = "V-b001-i002-cd.spi"


def test_what_is_moot_is_forgotten():
    with quick_folder() as place:
        house, source = Household(place, FIRST), Source(place / "volume.raw", 1 << 20)
        for hours in (0, 1, 2):
            source.capture_into(house.folder, FIRST + timedelta(hours=hours))
        house.now = FIRST + timedelta(hours=3)
        house.settle()
        house.now = midnight_after(FIRST)
        house.settle()
        assert house.states()[DAILY] is ImageState.GOOD
        images = house.images()
        with house.catalog.write() as session:
            folder = session.get_one(Folder, house.folder_id)
            there = verification_of(folder, images["V-b001-i001.spi"], "test")
            exchanged = "V-b001-i002.spi, as it was"
            rows = [
                (WorkKind.VERIFY, there.subject, "V-b001-i001.spi"),
                (WorkKind.VERIFY, exchanged, "V-b001-i002.spi"),
                (WorkKind.VERIFY, "gone", "V-b001-i009.spi"),
                (WorkKind.CONSOLIDATE, "superseded", "V-b001-i001-cd.spi"),
                (WorkKind.CONSOLIDATE, "to be done", "V-b001-i002-cw.spi"),
            ]
            for kind, subject, name in rows:
                session.add(row(house, kind, subject, f"{name} in {folder.path}"))
            session.add(row(house, WorkKind.VERIFY, "dropped", f"V-b001-i008.spi in {folder.path}", "ann"))
        house.scan()
        assert subjects(house) == {there.subject, "to be done", "dropped"}
        with house.catalog.write() as session:
            folder = session.get_one(Folder, house.folder_id)
            remove_folder(session, folder, now=house.now, machine_now=machine_now())
        assert subjects(house) == set()
        house.catalog.close()


def test_an_older_roll_up_of_other_periods_makes_no_work_moot():
    """A week that ends on another day now is still to be rolled up, though its last point is in an older weekly."""
    with quick_folder() as place:
        house = Household(place, FIRST)
        points = [
            Point(bytes([number]) * 16, number, FIRST + timedelta(days=number), 1 << 20)
            for number in range(10)
        ]
        with house.catalog.write() as session:
            folder = session.get_one(Folder, house.folder_id)
            stamp = FileStamp("V-b001-i009-cw.spi", 100, 1)
            older = new_image(session, folder.id, stamp, FIRST, machine_now())
            older.start, older.covers = pack_point(points[2]), [pack_point(point) for point in points[3:]]
            older.root = bytes(32)
            set_found_good(older, FIRST)
            made = row(house, WorkKind.CONSOLIDATE, "to be done", f"V-b001-i005-cw.spi in {folder.path}")
            made.started_at, made.crashes = FIRST + timedelta(days=20), 2
            session.add(made)
        assert forget_moot_work(house.context, house.folder_id) == 0
        assert subjects(house) == {"to be done"}
        house.catalog.close()


def test_what_a_later_version_does_is_no_trouble_of_an_earlier_one():
    with quick_folder() as place:
        house = Household(place, FIRST)
        with house.catalog.write() as session:
            for version, dropped_by in (("0.9", None), ("0.8", None)):
                made = row(house, WorkKind.VERIFY, "an image", "an image", dropped_by)
                made.engine_version = version
                session.add(made)
        with house.catalog.write() as session:
            begun = begin_attempt(session, Work(WorkKind.VERIFY, "an image", "1.0"), house.context.moment())
            assert end_attempt(session, begun.attempt_id, house.context.holder)
        assert subjects(house) == set()
        house.catalog.close()


def row(house: Household, kind: WorkKind, subject: str, title: str, dropped_by: str | None = None) -> Attempt:
    return Attempt(
        kind=kind,
        subject=subject,
        engine_version="test",
        started_at=FIRST,
        failures=3,
        quarantined=True,
        reason="a medium that fails",
        folder_id=house.folder_id,
        title=title,
        dropped_by=dropped_by,
    )


def subjects(house: Household) -> set[str]:
    with house.catalog.read() as session:
        return set(session.scalars(select(Attempt.subject)))
