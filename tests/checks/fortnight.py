"""Two simulated weeks on real bytes: after each midnight, points that are promised are restored and compared."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol
from zoneinfo import ZoneInfo

from tests.bed import image_names
from tests.command import in_this_process
from tests.commands import sha256_of
from tests.household import VOLUME, Source

BERLIN = ZoneInfo("Europe/Berlin")
FIRST = datetime(2026, 3, 20, 6, tzinfo=BERLIN)
"""A Friday; the clocks change on the 29th, and the month ends on the 31st."""

DAYS = 14
KEPT_DAYS = 7
"""Each point of so many days back must be restorable: the guide's rule for intra-daily images."""


class House(Protocol):
    """An agent, in processes or without."""

    now: datetime

    @property
    def folder(self) -> Path: ...

    def settle(self) -> None: ...


@dataclass
class Diary:
    """What was captured: when, and what the volume was then.

    Attributes:
        times: local time of each point, by number.
        digests: SHA-256 of the volume, likewise.
    """

    times: list[datetime] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)

    def promised(self, now: datetime) -> list[int]:
        """Name the points that must be restorable: of the last week all, of each earlier day the last."""
        kept = []
        for number, time in enumerate(self.times):
            following = self.times[number + 1] if number + 1 < len(self.times) else None
            ends_day = following is None or following.date() > time.date()
            if number == 0 or ends_day or now - time <= timedelta(days=KEPT_DAYS):
                kept.append(number)
        return kept


def live_a_fortnight(
    house: House, place: Path, *, volume_bytes: int, per_day: int, restores: int = 3, days: int = DAYS
) -> str:
    """Let two weeks pass.

    Args:
        house: an agent over an empty folder.
        place: for the volume, and for what is restored.
        volume_bytes: size of the volume.
        per_day: so many captures a day.
        restores: so many points are restored after each midnight.
        days: how many days pass.

    Returns:
        What was shown, in words.
    """
    chance = random.Random(14)
    source = Source(place / "volume.raw", volume_bytes)
    diary = Diary()
    compared = 0
    for day in range(days):
        for turn in range(per_day):
            moment = FIRST + timedelta(days=day, minutes=turn * (15 * 60 // per_day))
            house.now = moment
            source.capture_into(house.folder, moment)
            diary.times.append(moment)
            diary.digests.append(sha256_of(source.path))
        house.settle()
        house.now = midnight_after(moment)
        house.settle()
        promised = diary.promised(house.now)
        for number in chance.sample(promised, min(restores, len(promised))):
            must_restore(house.folder, place, number, diary.digests[number])
            compared += 1
    left = image_names(house.folder)
    must_follow_the_rules(left, per_day)
    captured = f"{len(diary.times)} captures in {days} days"
    return f"{captured}, {compared} points restored and compared, {len(left)} images left"


def midnight_after(moment: datetime) -> datetime:
    """Return the beginning of the next local day, a minute on."""
    return datetime(moment.year, moment.month, moment.day, 0, 1, tzinfo=BERLIN) + timedelta(days=1)


def must_restore(folder: Path, place: Path, number: int, digest: str) -> None:
    """Restore a point with the command, and compare."""
    target = place / "restored.raw"
    ran = in_this_process(
        "restore", folder, "--volume", VOLUME, "--point", str(number), "--to", target, "--json"
    )
    assert ran.code == 0, f"point {number}: {ran}"
    assert sha256_of(target) == digest, f"point {number} is not what was captured"
    target.unlink()


def must_follow_the_rules(left: list[str], per_day: int) -> None:
    """Hold what is left against the guide's rules, worked out by hand for the end of the fortnight.

    It is the night to 3 April. Weeks ended on the 21st, the 28th, and, with the month, on the 31st; so there are three
    weeklies and a monthly, all dailies, and the incrementals of the last eight days: those of the 26th were proven to
    be rolled up at a minute past midnight, and a week after that is an hour later, for the clocks changed meanwhile.
    """
    tiers: dict[str, list[str]] = {"cd": [], "cw": [], "cm": [], "": []}
    for name in left:
        stem = name.partition(".")[0]
        tier = stem.rpartition("-")[2]
        tiers[tier if tier in tiers else ""].append(name)
    assert len(tiers["cd"]) == DAYS, tiers["cd"]
    assert len(tiers["cw"]) == 3, tiers["cw"]
    assert len(tiers["cm"]) == 1, tiers["cm"]
    oldest = min(int(name.rpartition("-i")[2].partition(".")[0]) for name in tiers[""] if "-i" in name)
    days_gone = oldest // per_day
    assert days_gone == DAYS - KEPT_DAYS - 1, f"the oldest incremental left is {oldest}, with {per_day} a day"
