"""Tables of letters: what people are to be told, and by which ways.

Letter 1──* Delivery          how often a delivery was tried, and why it failed, is an Attempt
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import JSON

from storage.catalog.models import Model


class StoredLetter(Model):
    """A letter, kept until all its deliveries are done, and a while longer.

    Attributes:
        made_at: when it was made (calendar).
        content: what it says, as its reader wrote it.
    """

    __tablename__ = "letter"

    id: Mapped[int] = mapped_column(primary_key=True)
    made_at: Mapped[datetime] = mapped_column(index=True)
    content: Mapped[dict[str, object]] = mapped_column(JSON)


class Delivery(Model):
    """A letter on one of its ways.

    Attributes:
        channel: by which way, such as "mail".
        sent_at: when it arrived (calendar); None before.
    """

    __tablename__ = "delivery"

    letter_id: Mapped[int] = mapped_column(ForeignKey("letter.id", ondelete="CASCADE"), primary_key=True)
    channel: Mapped[str] = mapped_column(primary_key=True)
    sent_at: Mapped[datetime | None] = mapped_column(index=True)
