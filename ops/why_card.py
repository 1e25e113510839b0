"""What `rollforward why` tells of an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from rich.table import Table
from rich.text import Text
from sqlalchemy import select

from ops.chain_views import ChainView, view_of
from ops.held_thing import NamedImage
from ops.plan_screen import suspended_words
from ops.show import plain, print_json, size_words
from ops.words import age_words, moment_words
from policies.control import control_at
from policies.cursor import roll_on_path
from policies.errors import ConfigurationError
from policies.holdings import Holding
from policies.points import Span
from policies.retention import Fate
from policies.reverify import next_check_of
from storage.catalog.events import events_of
from storage.catalog.memory_models import Tombstone, TombstoneState
from storage.catalog.models import Chain, Event, Image, ImageState

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_EVENTS: Final = 8
"""So many of the latest events are told."""


@dataclass(frozen=True, slots=True)
class Why:
    """All that is told of an image.

    Attributes:
        named: the image.
        view: its chain and plan; None if it belongs to none.
        stone: the mark of its last removal; None if it was never removed.
        events: what happened to it, newest first.
        now: calendar time.
    """

    named: NamedImage
    view: ChainView | None
    stone: Tombstone | None
    events: tuple[Event, ...]
    now: datetime

    @property
    def image(self) -> Image | None:
        """Its row."""
        return self.named.image

    @property
    def zone(self) -> tzinfo:
        """The folder's time zone."""
        return ZoneInfo(self.named.folder.time_zone)

    @property
    def holding(self) -> Holding | None:
        """The image as the planner knows it."""
        held = () if self.view is None else self.view.facts.holdings
        return next((one for one in held if one.name == self.named.name), None)

    @property
    def fate(self) -> Fate | None:
        """What becomes of it; None if it is not there."""
        return None if self.view is None else self.view.plan.fate_of(self.named.name)

    @property
    def next_check_at(self) -> datetime | None:
        """When it is verified again; None for never."""
        view, holding = self.view, self.holding
        if view is None or holding is None or not holding.is_present or holding.fault is not None:
            return None
        control = control_at(self.now, view.control, view.facts.zone)
        return next_check_of(holding, view.policy.verification, control)

    @property
    def needs(self) -> tuple[str, ...]:
        """Who needs it, or a point that it leads to, in words."""
        if self.view is None or self.holding is None:
            return ()
        return tuple(_needs(self.view, self.holding.span, self.now))


def why_of(session: Session, named: NamedImage, now: datetime) -> Why:
    """Gather what is told of an image.

    Args:
        session: any session.
        named: the image.
        now: calendar time.

    Raises:
        ConfigurationError: nothing is known of a file of that name.
    """
    folder = named.folder
    mine = (Tombstone.folder_id == folder.id, Tombstone.name == named.name)
    stone = session.scalar(select(Tombstone).where(*mine).order_by(Tombstone.id.desc()).limit(1))
    events = tuple(events_of(session, folder.id, named.name, limit=_EVENTS))
    if named.image is None and stone is None and not events:
        raise ConfigurationError(
            "nothing is known of it",
            path=str(Path(folder.path) / named.name),
            hint="The agent takes up what lies in its folders; is it running?",
        )
    chain_id = None if named.image is None else named.image.chain_id
    chain = None if chain_id is None else session.get(Chain, chain_id)
    view = None if chain is None else view_of(session, folder, chain, now)
    return Why(named, view, stone, events, now)


def print_why(found: Why, *, as_json: bool) -> None:
    """Print what is told of an image, in words or as one JSON object."""
    if as_json:
        print_json(_fields(found))
        return
    from ops.screen import screen

    console = screen()
    verdict, colour = _verdict(found)
    console.print(Text(plain(found.named.name), "bold"))
    console.print(Text(f"  {plain(verdict)}", colour))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column("", no_wrap=True, style="dim")
    table.add_column("", overflow="fold")
    for word, words in _lines(found):
        table.add_row(f"  {word}", Text(plain(words)))
    console.print(table)


def _verdict(found: Why) -> tuple[str, str]:
    """Say in one sentence what becomes of it."""
    fate, image, stone = found.fate, found.image, found.stone
    if fate is not None:
        if image is not None and image.state is ImageState.BAD:
            return f"bad, and used for nothing: {image.reason}", "red"
        return (f"stays: {fate.reason}", "green") if fate.stays else (f"goes: {fate.reason}", "yellow")
    if stone is not None and stone.state is not TombstoneState.BROUGHT_BACK:
        return f"{_STONES[stone.state]}: {stone.reason}", "yellow"
    if image is None or image.state is ImageState.MISSING:
        return "gone, and nobody of ours took it away", "red"
    if image.state is ImageState.BAD:
        return f"bad, and used for nothing: {image.reason}", "red"
    return f"{image.state.value}: {image.reason or 'its header has not been read yet'}", "yellow"


_STONES: Final = {
    TombstoneState.RETIRING: "on its way out",
    TombstoneState.RETIRED: "removed, and can be brought back until its grace ends",
    TombstoneState.MOVED: "moved into Incrementals",
    TombstoneState.DELETED: "deleted",
}


def _lines(found: Why) -> Iterator[tuple[str, str]]:
    yield "folder", found.named.folder.path
    if found.holding is not None:
        yield "what it is", _span_words(found.holding, found.zone)
    if found.fate is not None:
        yield from _fate_lines(found, found.fate)
    if found.view is not None:
        yield from _view_lines(found.view)
    for number, need in enumerate(found.needs):
        yield "" if number else "needed by", need
    if found.image is not None:
        yield from _image_lines(found, found.image)
    if found.stone is not None:
        yield "removed", _stone_words(found, found.stone)
    for number, event in enumerate(found.events):
        yield "" if number else "history", f"{moment_words(event.at, found.zone)}  {event.text}"


def _fate_lines(found: Why, fate: Fate) -> Iterator[tuple[str, str]]:
    if fate.due_at is not None:
        yield "may go" if fate.due_at > found.now else "may go since", _moment(found, fate.due_at)
    if fate.cover is not None:
        yield "is held by", fate.cover.name


def _view_lines(view: ChainView) -> Iterator[tuple[str, str]]:
    suspended = suspended_words(view)
    if suspended is not None:
        yield "but", suspended
    for number, freeze in enumerate(view.plan.freezes):
        yield "" if number else "frozen", f"{freeze.reason}; ends {freeze.ends}"


def _image_lines(found: Why, image: Image) -> Iterator[tuple[str, str]]:
    yield "first seen", _moment(found, image.first_seen_at)
    checked = image.checked_at or image.verified_at
    if checked is None:
        yield "verified", "never" if image.state is not ImageState.BAD else "never found good"
    elif image.verified_at is None or checked == image.verified_at:
        yield "verified", _moment(found, checked)
    else:
        yield "verified", f"{_moment(found, checked)}; first {moment_words(image.verified_at, found.zone)}"
    if found.next_check_at is not None:
        yield "next verified", _moment(found, found.next_check_at)


def _span_words(holding: Holding, zone: tzinfo) -> str:
    span = holding.span
    kind = "base, or full image" if span.start is None else holding.tier.value
    if span.assumed:
        return f"{kind}, by its name alone: its container cannot be read"
    way = f"leads to point {span.end.number}"
    if span.start is not None:
        way = f"leads from point {span.start.number} to {span.end.number}"
    count = "1 point" if len(span.covers) == 1 else f"{len(span.covers):,} points"
    taken = moment_words(span.end.time, zone)
    return f"{kind}, {size_words(span.stored_bytes)}; {way}, covers {count}; taken {taken}"


def _stone_words(found: Why, stone: Tombstone) -> str:
    at = stone.deleted_at or stone.retired_at or stone.retiring_at
    return f"{_moment(found, at)}; {stone.covered_by} held all that it did"


def _moment(found: Why, moment: datetime) -> str:
    words = moment_words(moment, found.zone)
    if moment > found.now:
        return f"{words}, in {age_words(moment - found.now)}"
    return f"{words}, {age_words(found.now - moment)} ago"


def _needs(view: ChainView, span: Span, now: datetime) -> Iterator[str]:
    for hold in view.facts.holds:
        if hold.is_alive(now) and (hold.name == span.name or hold.point in span.held_ids):
            yield hold.needed_by
    for claim in view.facts.claims:
        is_on_way = claim.target is not None and claim.target.id in span.held_ids
        if claim.standing is not None and claim.target is not None:
            proven = [one.span for one in view.facts.holdings if one.is_proven]
            path = roll_on_path(claim.standing, proven, claim.target.id) or ()
            is_on_way = any(one.name == span.name for one in path)
        if claim.is_alive(now) and (span.name in claim.names or is_on_way):
            yield claim.holder


def _fields(found: Why) -> dict[str, object]:
    image, fate, holding, stone = found.image, found.fate, found.holding, found.stone
    verdict, _ = _verdict(found)
    return {
        "path": str(Path(found.named.folder.path) / found.named.name),
        "kind": "why",
        "volume": None if found.view is None else found.view.chain.volume,
        "number": None if holding is None else holding.span.end.number,
        "stored_bytes": None if image is None else image.stored_bytes,
        "status": None if image is None else image.state.value,
        "reason": verdict,
        "stays": None if fate is None else fate.stays,
        "ground": None if fate is None else fate.ground.value,
        "due_at": _iso(None if fate is None else fate.due_at),
        "covered_by": _cover_name(fate, stone),
        "tier": None if holding is None else holding.tier.value,
        "needed_by": list(found.needs),
        "freezes": _freezes(found),
        "first_seen_at": _iso(None if image is None else image.first_seen_at),
        "verified_at": _iso(None if image is None else image.verified_at),
        "checked_at": _iso(None if image is None else image.checked_at),
        "next_check_at": _iso(found.next_check_at),
        "removal": None if stone is None else stone.state.value,
        "events": _events(found.events),
    }


def _cover_name(fate: Fate | None, stone: Tombstone | None) -> str | None:
    if fate is not None and fate.cover is not None:
        return fate.cover.name
    return None if stone is None or fate is not None else stone.covered_by


def _freezes(found: Why) -> list[str]:
    return [] if found.view is None else [freeze.reason for freeze in found.view.plan.freezes]


def _events(events: Sequence[Event]) -> list[dict[str, object]]:
    return [{"at": event.at.isoformat(), "event": event.kind.value, "text": event.text} for event in events]


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
