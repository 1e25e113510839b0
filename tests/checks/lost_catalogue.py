"""A catalogue that is deleted in mid-life: what was promised holds, and nothing goes before jobs have reported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from sqlalchemy import select

from policies.freezing import FreezeKind
from policies.holdings import Hold
from storage.catalog import Catalog, Image, ImageState, Tombstone, TombstoneState
from storage.catalog.freezes import stored_freezes
from storage.catalog.holds import place_hold, stored_holds
from storage.catalog.models import Layer
from storage.catalog.points import span_of
from storage.catalog.reporters import add_reporter, report, silent_reporters
from tests.checks.fortnight import FIRST, midnight_after, must_restore
from tests.commands import sha256_of
from tests.household import Source

LAYER: Layer = {"retention": {"keep_intraday_days": 1, "keep_daily_days": 2}}
"""Days are short, so that much retires within few of them."""

JOB = "headstart:stand-by"
HELD_POINT = 2
"""In the middle of the first day: nothing but the hold asks for it once that is rolled up."""

QUIET_DAYS = 4


class House(Protocol):
    """An agent, in processes or without."""

    now: datetime

    @property
    def folder(self) -> Path: ...

    def settle(self) -> None: ...

    def set_layer(self, layer: Layer) -> None: ...

    def opened(self) -> AbstractContextManager[Catalog]: ...

    def lose_catalogue(self) -> None: ...

    def plan_anew(self) -> None: ...


@dataclass
class _Memory:
    """What the folder's catalogue must know again.

    Attributes:
        holds: reason and thing of each hold.
        stones: state of each removal, by name.
        retired: what lies moved aside.
        files: what lies in the folder.
    """

    holds: set[tuple[str, str | None, str | None]] = field(default_factory=set)
    stones: dict[str, TombstoneState] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)


def survive_loss(house: House, place: Path, *, volume_bytes: int, per_day: int, days: int = 4) -> str:
    """Let days pass, delete the catalogue while images lie in their grace, let more days pass; then the job reports.

    Args:
        house: an agent over an empty folder.
        place: for the volume, and for what is restored.
        volume_bytes: size of the volume.
        per_day: so many captures a day.
        days: how many days pass before; enough for images to retire.

    Returns:
        What was shown, in words.
    """
    house.set_layer(LAYER)
    source = Source(place / "volume.raw", volume_bytes)
    digests: list[str] = []
    for midnight in _live(house, source, digests, FIRST, days, per_day):
        if midnight == midnight_after(FIRST):
            held = _promise(house)
    before = _remember(house)
    assert before.retired
    assert before.retired == {
        name for name, state in before.stones.items() if state is TombstoneState.RETIRED
    }
    assert len(before.holds) == 2
    house.lose_catalogue()
    house.set_layer(LAYER)
    house.plan_anew()
    house.settle()
    after = _remember(house)
    assert after == before, f"{before}\n{after}"
    _must_not_be_known(house, set(before.stones))
    for _ in _live(house, source, digests, FIRST + timedelta(days=days), QUIET_DAYS, per_day):
        now = _remember(house)
        assert now.retired == before.retired, "deleted, or retired, before the job had reported"
        assert before.files <= now.files, f"gone: {sorted(before.files - now.files)}"
        assert JOB in _frozen_for(house)
    with house.opened() as catalog, catalog.write() as session:
        assert silent_reporters(session, 1) == [JOB]
        report(session, 1, JOB, now=house.now)
    assert not _frozen_for(house)
    house.now += timedelta(hours=1)
    house.plan_anew()
    house.settle()
    house.now += timedelta(hours=25)
    house.settle()
    end = _remember(house)
    assert not end.retired & before.retired
    gone = now.files - end.files
    assert gone, "nothing retired after the job had reported"
    assert held in end.files
    must_restore(house.folder, place, HELD_POINT, digests[HELD_POINT])
    return (
        f"{len(before.stones)} removals and {len(before.holds)} holds in force again; "
        f"nothing went in {QUIET_DAYS} days until the job reported, then {len(before.retired) + len(gone)} images"
    )


def _live(
    house: House, source: Source, digests: list[str], begin: datetime, days: int, per_day: int
) -> Iterator[datetime]:
    """Let days pass; give each midnight once its work is done."""
    for day in range(days):
        for turn in range(per_day):
            moment = begin + timedelta(days=day, hours=turn)
            house.now = max(house.now, moment)
            source.capture_into(house.folder, moment)
            digests.append(sha256_of(source.path))
        house.settle()
        house.now = midnight_after(moment) + timedelta(minutes=25 * day)
        house.settle()
        yield midnight_after(moment)


def _promise(house: House) -> str:
    """Have an image and a point held, and a job known that needs images; return the image's name."""
    with house.opened() as catalog, catalog.write() as session:
        images = {image.name: image for image in session.scalars(select(Image))}
        held = images["V-b001-i001.spi"]
        [span] = [
            span
            for span in map(span_of, images.values())
            if span is not None and span.end.number == HELD_POINT and len(span.covers) == 1
        ]
        assert held.chain_id is not None
        place_hold(session, held.chain_id, Hold("the audit", "ann", house.now, name=held.name))
        place_hold(session, held.chain_id, Hold("the trial", "bob", house.now, point=span.end.id))
        add_reporter(session, held.folder_id, JOB, now=house.now)
    house.plan_anew()
    house.settle()
    return held.name


def _remember(house: House) -> _Memory:
    with house.opened() as catalog, catalog.read() as session:
        holds = {(stored.reason, stored.name, stored.point) for stored in stored_holds(session)}
        stones = {
            stone.name: stone.state for stone in session.scalars(select(Tombstone).order_by(Tombstone.id))
        }
    retired = {path.name for path in (house.folder / ".rollforward" / "retired").glob("*/*.spi")}
    return _Memory(holds, stones, retired, {path.name for path in house.folder.iterdir() if path.is_file()})


def _must_not_be_known(house: House, removed: set[str]) -> None:
    """What was removed is not taken for an image that is there, or that somebody lost."""
    with house.opened() as catalog, catalog.read() as session:
        known = session.scalars(
            select(Image.name).where(Image.state.in_([ImageState.GOOD, ImageState.MISSING]))
        )
        assert not removed & set(known)


def _frozen_for(house: House) -> str:
    with house.opened() as catalog, catalog.read() as session:
        return " ".join(
            freeze.reason for freeze in stored_freezes(session) if freeze.kind is FreezeKind.REBUILT
        )
