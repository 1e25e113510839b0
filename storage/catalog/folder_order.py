"""In which order folders are shown, and worked on."""

from __future__ import annotations

from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.elements import ColumnElement

from storage.catalog.models import Folder


def in_order() -> tuple[
    ColumnElement[bool] | InstrumentedAttribute[int | None] | InstrumentedAttribute[str], ...
]:
    """Give what folders are ordered by: those with a sort priority first, ascending, then all others; then by path."""
    return Folder.sort_priority.is_(None), Folder.sort_priority, Folder.path
