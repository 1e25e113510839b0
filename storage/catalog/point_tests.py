"""Restore tests in the catalogue: which disks are due for one, and what was found of points.

What was found is kept in the ledger of the folder, too: a point that was proven stays so when the catalogue is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from policies.headstart import DiskState
from policies.restore_tests import Verdict
from storage.catalog.headstart_models import HeadStartDisk, HeadStartJob, PointTest
from storage.catalog.ledger_lines import add_line
from storage.ledger_entries import KEPT_FOR, RestoreTestEntry

WORDS_MAX: Final = 1_000
"""Longest words of what was found, in letters."""

_AT_ONCE: Final = 1_000


def disks_to_test(session: Session, now: datetime, *, limit: int = 5_000) -> list[int]:
    """Return which disks may be due for a restore test, the longest due first; reads no other.

    Args:
        session: any session.
        now: calendar time.
        limit: at most so many.
    """
    due = (HeadStartDisk.next_test_at <= now, HeadStartDisk.state != DiskState.FINALIZED)
    query = select(HeadStartDisk.id).where(*due)
    return list(session.scalars(query.order_by(HeadStartDisk.next_test_at, HeadStartDisk.id).limit(limit)))


def last_test(session: Session, job: HeadStartJob, disk: HeadStartDisk) -> PointTest | None:
    """Return the last test of a disk's points that came to an end; None if there was none."""
    query = select(PointTest).where(PointTest.job_uid == job.uid, PointTest.volume == disk.volume)
    return session.scalar(query.order_by(PointTest.tested_at.desc(), PointTest.id.desc()).limit(1))


def words_of_test(text: str) -> str:
    """Return words of programs, guests and files as either database and the ledger can keep them, on one line."""
    told = text.encode(errors="surrogateescape").decode(errors="replace")
    return "".join(letter if letter.isprintable() else " " for letter in told)[:WORDS_MAX]


def note_test(session: Session, found: PointTest) -> PointTest:
    """Record what a test has found, in place of what an earlier one of the same point found for the same disk.

    Args:
        session: of a write transaction; after it `mirror_ledger` is to be called.
        found: a row that is in no session.

    Returns:
        The row that is.
    """
    same = (PointTest.job_uid == found.job_uid, PointTest.volume == found.volume)
    session.execute(delete(PointTest).where(*same, PointTest.point == found.point))
    session.add(found)
    session.flush()
    add_line(session, found.folder_id, entry_of_test(found))
    return found


def entry_of_test(row: PointTest) -> RestoreTestEntry:
    """Return what a test has found as it stands in a ledger."""
    return RestoreTestEntry(
        job=row.job_uid,
        volume=row.volume,
        base=row.base_number,
        point=row.point,
        number=row.number,
        tested_at=row.tested_at,
        seconds=row.seconds,
        verdict=row.verdict.value,
        words=row.words,
        screenshot=row.screenshot,
    )


def take_test(session: Session, folder_id: int, entry: RestoreTestEntry) -> None:
    """Take in what a ledger remembers of a test, unless as much is known."""
    query = select(PointTest).where(
        PointTest.job_uid == entry.job, PointTest.volume == entry.volume, PointTest.point == entry.point
    )
    known = session.scalar(query)
    if known is not None and known.tested_at >= entry.tested_at:
        return
    if known is not None:
        session.delete(known)
        session.flush()
    session.add(
        PointTest(
            folder_id=folder_id,
            job_uid=entry.job,
            volume=entry.volume,
            base_number=entry.base,
            point=entry.point,
            number=entry.number,
            tested_at=entry.tested_at,
            seconds=entry.seconds,
            verdict=Verdict(entry.verdict),
            words=entry.words,
            screenshot=entry.screenshot,
            facts={},
        )
    )


def restore_tests_of(session: Session, folder_id: int) -> list[PointTest]:
    """Return what is known of tests of a folder's points, the oldest first."""
    query = select(PointTest).where(PointTest.folder_id == folder_id)
    return list(session.scalars(query.order_by(PointTest.tested_at, PointTest.id)))


def restore_tests_over(session: Session, now: datetime) -> list[int]:
    """Return tests so long ago that they say nothing any more, by their rows.

    Args:
        session: any session.
        now: calendar time.
    """
    query = select(PointTest.id).where(PointTest.tested_at <= now - KEPT_FOR)
    return list(session.scalars(query.limit(_AT_ONCE)))


def prune_restore_tests(session: Session, row_ids: Sequence[int]) -> None:
    """Forget tests, by what `restore_tests_over` says of them."""
    session.execute(delete(PointTest).where(PointTest.id.in_(row_ids)))
