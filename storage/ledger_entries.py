"""What a ledger holds, and how what is known several times over becomes one.

Entries merge the same way in whatever order they are read, and however often: of a tombstone the state that is
furthest on counts, of a hold its release, of a first sight the earliest. So lines may be written twice, by two
workers at once, or after a crash, and the ledger says the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Final, TypeVar

from policies.errors import FormatError

KEPT_FOR: Final = timedelta(days=400)
"""What is over (a tombstone, a released hold, a reporter that left) is forgotten after so long."""

TEXT_MAX: Final = 4_096
"""Longest text in an entry, in characters."""

_SECONDS_MAX: Final = 1e9
_STATES: Final = ("retiring", "retired", "moved", "deleted", "brought_back")
_TIERS: Final = ("incremental", "daily", "weekly", "monthly", "rolling")
_VERDICTS: Final = ("good", "unclear", "bad")


@dataclass(frozen=True, slots=True)
class HoldEntry:
    """A hold, or its release.

    Attributes:
        uid: 32 hexadecimal digits.
        name: the file; None if it is on a point.
        point: identity of the point, hexadecimal; None if it is on a file.
        reason: why, in the person's words.
        placed_by: who wished it.
        placed_at: when.
        released_at: when it was given up; None while it is in force.
        until: when it ends by itself; None if it lasts until it is released.
    """

    word: ClassVar[str] = "hold"

    uid: str
    name: str | None
    point: str | None
    reason: str
    placed_by: str
    placed_at: datetime
    released_at: datetime | None = None
    until: datetime | None = None

    @property
    def key(self) -> str:
        """What tells it from other holds."""
        return self.uid

    @property
    def over_since(self) -> datetime | None:
        """Since when it no longer matters; None while it does."""
        return _first(self.released_at, self.until)

    def merged(self, other: HoldEntry) -> HoldEntry:
        """Give what two entries of one hold say together."""
        return replace(min(self, other, key=repr), released_at=_first(self.released_at, other.released_at))


@dataclass(frozen=True, slots=True)
class TombstoneEntry:
    """The mark of an image that was, or is being, removed.

    Attributes:
        token: names this removal.
        name: file name.
        root: 64 hexadecimal digits, identity of the image.
        tier: what it was rolled up as.
        state: how far it has come: retiring, retired, moved, deleted or brought_back.
        to_incrementals: whether it was moved into `Incrementals/` in place of being deleted.
        reason: why it was removed, in words.
        covered_by: file name of an image that stayed and holds all that it did.
        stored_bytes: its size, all parts together.
        files: its files, as `retired.FileMark` writes them.
        first_seen_at: when it was first noticed.
        retiring_at: when its removal was decided.
        retired_at: when it was moved away; None before.
        deleted_at: when it was deleted, or brought back; None before.
        lifted: whether an image of this root may lie in the folder again, because it was made anew.
    """

    word: ClassVar[str] = "tombstone"

    token: str
    name: str
    root: str
    tier: str
    state: str
    to_incrementals: bool
    reason: str
    covered_by: str
    stored_bytes: int
    files: tuple[Mapping[str, str | int], ...]
    first_seen_at: datetime
    retiring_at: datetime
    retired_at: datetime | None = None
    deleted_at: datetime | None = None
    lifted: bool = False

    @property
    def key(self) -> str:
        """What tells it from other removals."""
        return self.token

    @property
    def over_since(self) -> datetime | None:
        """Since when it no longer matters; None while it does."""
        return self.deleted_at

    def merged(self, other: TombstoneEntry) -> TombstoneEntry:
        """Give what two entries of one removal say together: the one that is further on."""
        further = max(self, other, key=lambda stone: (_STATES.index(stone.state), repr(stone)))
        return replace(further, lifted=self.lifted or other.lifted)


@dataclass(frozen=True, slots=True)
class SeenEntry:
    """When an image was first noticed.

    Attributes:
        root: 64 hexadecimal digits, identity of the image.
        name: file name.
        seen_at: when.
    """

    word: ClassVar[str] = "seen"

    root: str
    name: str
    seen_at: datetime

    @property
    def key(self) -> str:
        """What tells it from other images."""
        return f"{self.root} {self.name}"

    @property
    def over_since(self) -> datetime | None:
        """Since when it no longer matters."""
        return None

    def merged(self, other: SeenEntry) -> SeenEntry:
        """Give the earlier of two."""
        return min(self, other, key=lambda seen: seen.seen_at)


@dataclass(frozen=True, slots=True)
class SightEntry:
    """When a point was first seen whose stamp cannot be right.

    Attributes:
        point: 32 hexadecimal digits, identity of the point.
        seen_at: when.
    """

    word: ClassVar[str] = "sight"

    point: str
    seen_at: datetime

    @property
    def key(self) -> str:
        """What tells it from other points."""
        return self.point

    @property
    def over_since(self) -> datetime | None:
        """Since when it no longer matters."""
        return None

    def merged(self, other: SightEntry) -> SightEntry:
        """Give the earlier of two."""
        return min(self, other, key=lambda sight: sight.seen_at)


@dataclass(frozen=True, slots=True)
class ReporterEntry:
    """A job or target that needs images of the folder, or does no longer.

    Attributes:
        name: of the job or target.
        since: when that was first so.
        left_at: since when it needs none any more; None while it does.
    """

    word: ClassVar[str] = "reporter"

    name: str
    since: datetime
    left_at: datetime | None = None

    @property
    def key(self) -> str:
        """What tells it from others."""
        return f"{self.name} {self.since.astimezone(UTC).isoformat()}"

    @property
    def over_since(self) -> datetime | None:
        """Since when it no longer matters; None while it does."""
        return self.left_at

    def merged(self, other: ReporterEntry) -> ReporterEntry:
        """Give what two entries of one say together."""
        return replace(self, left_at=_first(self.left_at, other.left_at))


@dataclass(frozen=True, slots=True)
class RestoreTestEntry:
    """What the last restore test of a point, for a disk of a HeadStart job, has found.

    Attributes:
        job: 32 hexadecimal digits, the job's.
        volume: name of the volume.
        base: number of the base of its chain.
        point: 32 hexadecimal digits, identity of the point.
        number: of the point.
        tested_at: when the test began.
        seconds: how long it took.
        verdict: good, unclear or bad.
        words: what was found, in words.
        screenshot: where the last screen lies; None if there is none.
    """

    word: ClassVar[str] = "tested"

    job: str
    volume: str
    base: int
    point: str
    number: int
    tested_at: datetime
    seconds: float
    verdict: str
    words: str
    screenshot: str | None = None

    @property
    def key(self) -> str:
        """What tells it from tests of other points and for other disks."""
        return f"{self.job} {self.volume} {self.point}"

    @property
    def over_since(self) -> datetime | None:
        """Since when it no longer matters: what was found so long ago says nothing any more."""
        return self.tested_at

    def merged(self, other: RestoreTestEntry) -> RestoreTestEntry:
        """Give the later of two."""
        return max(self, other, key=lambda test: (test.tested_at, repr(test)))


Entry = HoldEntry | TombstoneEntry | SeenEntry | SightEntry | ReporterEntry | RestoreTestEntry
_KINDS: Final[tuple[type[Entry], ...]] = (
    HoldEntry,
    TombstoneEntry,
    SeenEntry,
    SightEntry,
    ReporterEntry,
    RestoreTestEntry,
)
_Kind = TypeVar("_Kind", HoldEntry, TombstoneEntry, SeenEntry, SightEntry, ReporterEntry, RestoreTestEntry)


class LedgerState:
    """All that a ledger says.

    Args:
        entries: what it holds, in any order.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._known: dict[tuple[str, str], Entry] = {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Merge one more entry in."""
        key = (entry.word, entry.key)
        before = self._known.get(key)
        if before is not None and type(before) is type(entry):
            entry = before.merged(entry)  # type: ignore[arg-type]  # of the same kind, as was just seen
        self._known[key] = entry

    def of(self, kind: type[_Kind]) -> list[_Kind]:
        """Return the entries of one kind, by their keys."""
        return [entry for _, entry in sorted(self._known.items()) if isinstance(entry, kind)]

    @property
    def holds(self) -> list[HoldEntry]:
        """The holds that are in force."""
        return [hold for hold in self.of(HoldEntry) if hold.released_at is None]

    @property
    def reporters(self) -> list[str]:
        """The jobs and targets that need images of the folder, by name."""
        return sorted({one.name for one in self.of(ReporterEntry) if one.left_at is None})

    def worth_keeping(self, now: datetime) -> list[Entry]:
        """Return what still matters, in a fixed order.

        Args:
            now: calendar time; what has been over for `KEPT_FOR` is left out, unless it says that what covered a
                removed image is itself covered, and the tombstone of that image is kept.
        """
        stones = self.of(TombstoneEntry)
        deleted = {one.root for one in stones if one.state == "deleted" and not one.lifted}
        leant_on = _leant_on(stones, now)
        return [
            entry
            for _, entry in sorted(self._known.items())
            if (not _is_over(entry, now) or (isinstance(entry, TombstoneEntry) and entry.token in leant_on))
            and not (isinstance(entry, SeenEntry) and entry.root in deleted)
        ]

    def __len__(self) -> int:
        return len(self._known)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LedgerState) and self._known == other._known

    __hash__ = None  # type: ignore[assignment]  # it grows


def pack_entry(entry: Entry) -> dict[str, object]:
    """Write an entry as JSON values; `unpack_entry` reads it back."""
    packed: dict[str, object] = {"is": entry.word}
    for field in dataclasses.fields(entry):
        value = getattr(entry, field.name)
        if isinstance(value, datetime):
            value = value.astimezone(UTC).isoformat()
        elif isinstance(value, tuple):
            value = [dict(one) for one in value]
        packed[field.name] = value
    return packed


def unpack_entry(packed: object) -> Entry:
    """Read an entry.

    Args:
        packed: JSON values, from anybody.

    Raises:
        FormatError: it is no entry of this version.
    """
    if not isinstance(packed, dict):
        raise FormatError("a line of the ledger holds no entry")
    kind = next((kind for kind in _KINDS if kind.word == packed.get("is")), None)
    if kind is None:
        raise FormatError("a line of the ledger is of no known kind", actual=str(packed.get("is"))[:40])
    values: dict[str, object] = {}
    for field in dataclasses.fields(kind):
        try:
            read = _OF_KIND.get((kind, field.name)) or _READERS[field.name]
            values[field.name] = read(packed.get(field.name))
        except (TypeError, ValueError, OverflowError):
            raise FormatError(f"a line of the ledger has no good {field.name!r}") from None
    make: Callable[..., Entry] = kind
    return make(**values)


def _is_over(entry: Entry, now: datetime) -> bool:
    return entry.over_since is not None and now - entry.over_since >= KEPT_FOR


def _leant_on(stones: Iterable[TombstoneEntry], now: datetime) -> set[str]:
    """Tell which tombstones that are over lead on to what covers an image whose tombstone is kept, by their tokens."""
    over: dict[str, list[TombstoneEntry]] = {}
    kept = []
    for stone in stones:
        if not _is_over(stone, now):
            kept.append(stone)
        elif stone.state == "deleted":
            over.setdefault(stone.name, []).append(stone)
    found = set()
    while kept:
        stone = kept.pop()
        if stone.state != "brought_back":
            more = over.pop(stone.covered_by, [])
            found |= {one.token for one in more}
            kept += more
    return found


def _first(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((moment for moment in (one, other) if moment is not None), default=None)


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > TEXT_MAX:
        raise ValueError
    value.encode()  # what UTF-8 cannot say could not be written again
    return value


def _name(value: object) -> str:
    """Read a file's name: one that cannot lead out of its folder."""
    text = _text(value)
    if text in ("", ".", "..") or "/" in text or "\0" in text or len(text.encode()) > 255:
        raise ValueError
    return text


def _hexadecimal(digits: int) -> Callable[[object], str]:
    def read(value: object) -> str:
        text = _text(value)
        if len(text) != digits or bytes.fromhex(text).hex() != text:
            raise ValueError
        return text

    return read


def _token(value: object) -> str:
    """Read a token: it names a folder, so it holds letters, digits and dashes alone."""
    text = _text(value)
    if not text or len(text) > 80 or not text.isascii() or not text.replace("-", "").isalnum():
        raise ValueError
    return text


def _moment(value: object) -> datetime:
    moment = datetime.fromisoformat(_text(value))
    if moment.tzinfo is None:
        raise ValueError
    return moment.astimezone(UTC)


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _number(lowest: int, highest: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise ValueError
        return value

    return read


def _seconds(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= _SECONDS_MAX:
        raise ValueError
    return float(value)


def _one_of(words: tuple[str, ...]) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in words:
            raise ValueError
        return str(value)

    return read


def _files(value: object) -> tuple[Mapping[str, str | int], ...]:
    if not isinstance(value, list) or len(value) > 100_010:
        raise ValueError
    found = []
    for one in value:
        if not isinstance(one, dict):
            raise TypeError
        mark: dict[str, str | int] = {"name": _name(one.get("name"))}
        for field, read in _MARK_NUMBERS.items():
            mark[field] = read(one.get(field))
        found.append(mark)
    return tuple(found)


def _optional(read: Callable[[object], object]) -> Callable[[object], object]:
    return lambda value: None if value is None else read(value)


_size: Final = _number(0, (1 << 63) - 1)
_count: Final = _number(0, (1 << 32) - 1)
_MARK_NUMBERS: Final[Mapping[str, Callable[[object], int]]] = {
    "size_bytes": _size,
    "mtime_ns": _number(-(1 << 63), (1 << 63) - 1),
    "inode": _number(0, (1 << 64) - 1),
}
_READERS: Final[Mapping[str, Callable[[object], object]]] = {
    "uid": _hexadecimal(32),
    "token": _token,
    "name": _name,
    "root": _hexadecimal(64),
    "point": _hexadecimal(32),
    "tier": _one_of(_TIERS),
    "state": _one_of(_STATES),
    "reason": _text,
    "placed_by": _text,
    "covered_by": _text,
    "to_incrementals": _truth,
    "lifted": _truth,
    "stored_bytes": _size,
    "files": _files,
    "seen_at": _moment,
    "since": _moment,
    "placed_at": _moment,
    "released_at": _optional(_moment),
    "until": _optional(_moment),
    "left_at": _optional(_moment),
    "first_seen_at": _moment,
    "retiring_at": _moment,
    "retired_at": _optional(_moment),
    "deleted_at": _optional(_moment),
    "job": _hexadecimal(32),
    "volume": _text,
    "base": _count,
    "number": _count,
    "tested_at": _moment,
    "seconds": _seconds,
    "verdict": _one_of(_VERDICTS),
    "words": _text,
    "screenshot": _optional(_text),
}
"""How each field is read, and what it must be."""

_OF_KIND: Final[Mapping[tuple[type[Entry], str], Callable[[object], object]]] = {
    (HoldEntry, "name"): _optional(_name),
    (HoldEntry, "point"): _optional(_hexadecimal(32)),
    (ReporterEntry, "name"): _text,
}
"""Where a kind's field is read otherwise."""
