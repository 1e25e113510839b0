"""Letters that are to be sent: each waits here for each of its ways until it has arrived."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from storage.catalog.letter_models import Delivery, StoredLetter


@dataclass(frozen=True, slots=True)
class WaitingLetter:
    """A letter that has not arrived by one of its ways.

    Attributes:
        letter_id: row of the letter.
        channel: the way.
        made_at: when it was made (calendar).
        content: what it says.
    """

    letter_id: int
    channel: str
    made_at: datetime
    content: dict[str, object]


def add_letter(
    session: Session, content: dict[str, object], channels: Iterable[str], *, made_at: datetime
) -> int:
    """Have a letter sent.

    Args:
        session: of a write transaction.
        content: what it says, JSON values.
        channels: by which ways.
        made_at: when it was made (calendar).

    Returns:
        Its row.
    """
    letter = StoredLetter(made_at=made_at, content=content)
    session.add(letter)
    session.flush()
    session.add_all(
        Delivery(letter_id=letter.id, channel=channel, sent_at=None) for channel in sorted(set(channels))
    )
    session.flush()
    return letter.id


def waiting_letters(session: Session, *, limit: int = 50) -> list[WaitingLetter]:
    """Return letters that have not arrived, the oldest first; at most so many."""
    query = (
        select(StoredLetter.id, Delivery.channel, StoredLetter.made_at, StoredLetter.content)
        .join(Delivery, Delivery.letter_id == StoredLetter.id)
        .where(Delivery.sent_at.is_(None))
        .order_by(StoredLetter.id, Delivery.channel)
        .limit(limit)
    )
    return [WaitingLetter(*row) for row in session.execute(query)]


def count_waiting(session: Session) -> int:
    """Tell how many deliveries wait."""
    query = select(func.count()).select_from(Delivery).where(Delivery.sent_at.is_(None))
    return session.scalar(query) or 0


def letter_arrived(session: Session, letter_id: int, channel: str, *, now: datetime) -> None:
    """Record that a letter arrived by one of its ways."""
    delivery = session.get(Delivery, (letter_id, channel))
    if delivery is not None:
        delivery.sent_at = now


def drop_channel(session: Session, channel: str) -> None:
    """Give up what waits for a way that is no longer there."""
    session.execute(delete(Delivery).where(Delivery.channel == channel, Delivery.sent_at.is_(None)))


def prune_letters(session: Session, *, before: datetime) -> None:
    """Forget letters that were made before a moment (calendar), those that never arrived too."""
    session.execute(delete(StoredLetter).where(StoredLetter.made_at < before))
