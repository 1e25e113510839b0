"""After a clock was set: what was written down by the old time must not wait for it to come again."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from policies.attempts import LONGEST_WAIT
from storage.catalog.folders import begin_anew
from storage.catalog.headstart_models import HeadStartDisk, PointTest
from storage.catalog.models import Attempt, Chain, Image, Lease

FAR_AHEAD: Final = timedelta(days=2)
"""No chain or disk is left alone for longer, whatever its next work is: the next day's control looks at each."""


def pull_back(session: Session, *, now: datetime, machine_now: datetime, lease_time: timedelta) -> None:
    """Bring forward what waits for a time that lies too far ahead, and look at every folder.

    What was seen or tested at a time that is still to come was so now at the latest. Doing so without need costs a plan
    a chain and a scan a folder, and changes nothing.

    Args:
        session: of a write transaction.
        now: calendar time.
        machine_now: real time.
        lease_time: how long a holder counts as alive without renewing.
    """
    far = now + FAR_AHEAD
    seen_ahead = select(Image.chain_id).where(Image.first_seen_at > now)
    late = (Chain.next_due_at > far) | Chain.id.in_(seen_ahead)
    session.execute(update(Chain).where(late).values(next_due_at=now, revision=Chain.revision + 1))
    for due in (HeadStartDisk.next_due_at, HeadStartDisk.next_test_at):
        session.execute(update(HeadStartDisk).where(due > far).values({due: now}))
    for time in (Image.first_seen_at, PointTest.tested_at):
        session.execute(update(time.class_).where(time > now).values({time: now}))
    latest = now + LONGEST_WAIT
    session.execute(update(Attempt).where(Attempt.retry_at > latest).values(retry_at=latest))
    ends_at = machine_now + lease_time
    for table in (Lease, Attempt):
        session.execute(update(table).where(table.expires_at > ends_at).values(expires_at=ends_at))
    session.execute(update(Image).where(Image.still_since > machine_now).values(still_since=machine_now))
    begin_anew(session, machine_now)
