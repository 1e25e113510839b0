"""What people are told: a letter about trouble, the daily summary, a test.

A letter is a value that says all that there is to say; how it reads is for `letter_text` and `letter_html`. As JSON it
is kept in the catalogue until it is sent, and is what a webhook gets. Its form is named in its key `form`; keys may be
added, none changes its meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import StrEnum
from typing import Final

from policies.notices import TOPIC_OF, Topic, TroubleKind, TroubleRecord

FORM: Final = "rollforward-letter/1"
"""Names the form of the JSON."""

Json = Mapping[str, object]


class LetterKind(StrEnum):
    """Kinds of letters."""

    TROUBLE = "trouble"
    SUMMARY = "summary"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Entry:
    """One trouble in a letter.

    Attributes:
        kind: what kind of trouble.
        place: folder or device.
        subject: file, volume or work; empty for the place itself.
        reason: what is wrong, in words.
        hint: what to do about it; may be empty.
        since: since when.
        ended: since when it is over; None while it lasts.
    """

    kind: TroubleKind
    place: str
    subject: str
    reason: str
    hint: str
    since: datetime
    ended: datetime | None = None


@dataclass(frozen=True, slots=True)
class FolderLine:
    """A folder in the daily summary.

    Attributes:
        path: where it is.
        images: how many images it has.
        stored_bytes: their sizes together.
        free_bytes: what is free on its device; None if unknown.
        size_bytes: size of its device; None if unknown.
        newest_at: when an image last landed; None if none ever did.
        counts: what happened in the last day, in words and numbers, such as {"verified": 96}.
        problem: why it cannot be read; empty if it can.
    """

    path: str
    images: int
    stored_bytes: int
    free_bytes: int | None
    size_bytes: int | None
    newest_at: datetime | None
    counts: Mapping[str, int]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Letter:
    """What is told at one time.

    Attributes:
        kind: what kind of letter.
        host: the machine that it comes from.
        made_at: when it was made.
        opened: trouble that is told with this letter; in a summary, all that is open.
        cleared: trouble that is over.
        day: the local day that a summary was made on; None otherwise.
        folders: what a summary says of each.
        folders_in_all: how many folders there are.
    """

    kind: LetterKind
    host: str
    made_at: datetime
    opened: tuple[Entry, ...] = ()
    cleared: tuple[Entry, ...] = ()
    day: date | None = None
    folders: tuple[FolderLine, ...] = ()
    folders_in_all: int = 0

    @property
    def subject(self) -> str:
        """What the letter is about, in one line."""
        if self.kind is LetterKind.TEST:
            return f"test from {self.host}"
        if self.kind is LetterKind.SUMMARY:
            state = _count(len(self.opened), "trouble", "troubles") if self.opened else "all is well"
            return f"{self.day}: {state} on {self.host}"
        first = (self.opened or self.cleared)[0]
        more = len(self.opened or self.cleared) - 1
        what = f"{TITLES[first.kind]}: {first.subject or first.place}"
        return ("" if self.opened else "over: ") + what + (f", and {more:,} more" if more else "")

    def about(self, topics: Iterable[str]) -> Letter | None:
        """Return what a recipient is told who asked for some topics; None if that is nothing."""
        wanted = frozenset(topics)
        if self.kind is LetterKind.TEST:
            return self
        if self.kind is LetterKind.SUMMARY:
            return self if Topic.SUMMARY in wanted else None
        opened, cleared = (
            tuple(entry for entry in entries if TOPIC_OF[entry.kind] in wanted)
            for entries in (self.opened, self.cleared)
        )
        return replace(self, opened=opened, cleared=cleared) if opened or cleared else None

    def to_json(self) -> dict[str, object]:
        """Write the letter as JSON values; `letter_from_json` reads it back."""
        return {
            "form": FORM,
            "kind": self.kind.value,
            "host": self.host,
            "made_at": self.made_at.isoformat(),
            "subject": self.subject,
            "opened": [_entry_json(entry) for entry in self.opened],
            "cleared": [_entry_json(entry) for entry in self.cleared],
            "day": self.day.isoformat() if self.day else None,
            "folders": [_folder_json(folder) for folder in self.folders],
            "folders_in_all": self.folders_in_all,
        }


TITLES: Final[Mapping[TroubleKind, str]] = {
    TroubleKind.DAMAGED: "damaged image",
    TroubleKind.FAILURE: "work failed",
    TroubleKind.UNREACHABLE: "folder out of reach",
    TroubleKind.WAITING: "cannot go on",
    TroubleKind.FROZEN: "deletion is frozen",
    TroubleKind.INACTIVITY: "no new image",
    TroubleKind.LOW_SPACE: "space runs low",
    TroubleKind.STANDBY: "stand-by disk is not kept up",
    TroubleKind.RESTORE_TEST: "restore test went wrong",
}
"""What each kind of trouble is called."""


def entry_of(record: TroubleRecord) -> Entry:
    """Return the entry for a trouble, still there or over."""
    trouble = record.trouble
    return Entry(
        kind=trouble.kind,
        place=trouble.place,
        subject=trouble.subject,
        reason=trouble.reason,
        hint=trouble.hint,
        since=record.began_at,
        ended=record.absent_since,
    )


def letter_from_json(values: Json) -> Letter:
    """Read a letter that `Letter.to_json` wrote.

    Raises:
        ValueError: it is no such letter.
    """
    if values.get("form") != FORM:
        raise ValueError(f"not a letter of the form {FORM}")
    day = values["day"]
    return Letter(
        kind=LetterKind(str(values["kind"])),
        host=str(values["host"]),
        made_at=datetime.fromisoformat(str(values["made_at"])),
        opened=tuple(_entry_from(one) for one in _list(values["opened"])),
        cleared=tuple(_entry_from(one) for one in _list(values["cleared"])),
        day=date.fromisoformat(str(day)) if day is not None else None,
        folders=tuple(_folder_from(one) for one in _list(values["folders"])),
        folders_in_all=_whole(values["folders_in_all"]),
    )


def _entry_json(entry: Entry) -> dict[str, object]:
    return {
        "kind": entry.kind.value,
        "place": entry.place,
        "subject": entry.subject,
        "reason": entry.reason,
        "hint": entry.hint,
        "since": entry.since.isoformat(),
        "ended": entry.ended.isoformat() if entry.ended else None,
    }


def _entry_from(values: Json) -> Entry:
    return Entry(
        kind=TroubleKind(str(values["kind"])),
        place=str(values["place"]),
        subject=str(values["subject"]),
        reason=str(values["reason"]),
        hint=str(values["hint"]),
        since=datetime.fromisoformat(str(values["since"])),
        ended=_moment(values["ended"]),
    )


def _folder_json(folder: FolderLine) -> dict[str, object]:
    return {
        "path": folder.path,
        "images": folder.images,
        "stored_bytes": folder.stored_bytes,
        "free_bytes": folder.free_bytes,
        "size_bytes": folder.size_bytes,
        "newest_at": folder.newest_at.isoformat() if folder.newest_at else None,
        "counts": dict(folder.counts),
        "problem": folder.problem,
    }


def _folder_from(values: Json) -> FolderLine:
    counts = values["counts"]
    return FolderLine(
        path=str(values["path"]),
        images=_whole(values["images"]),
        stored_bytes=_whole(values["stored_bytes"]),
        free_bytes=_whole(values["free_bytes"]) if values["free_bytes"] is not None else None,
        size_bytes=_whole(values["size_bytes"]) if values["size_bytes"] is not None else None,
        newest_at=_moment(values["newest_at"]),
        counts={str(word): _whole(count) for word, count in counts.items()}
        if isinstance(counts, Mapping)
        else {},
        problem=str(values["problem"]),
    )


def _list(values: object) -> list[Json]:
    return [one for one in values if isinstance(one, Mapping)] if isinstance(values, list) else []


def _moment(value: object) -> datetime | None:
    return datetime.fromisoformat(str(value)) if value is not None else None


def _whole(value: object) -> int:
    if not isinstance(value, int):
        raise ValueError(f"not a whole number: {value!r}")  # noqa: TRY004 - one error for all that a letter is not
    return value


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
