"""Parts of the agent killed with -9 at random moments, while images land and days roll over.

The same images land in the folder of an undisturbed household and in that of an agent whose parts are killed again and
again. After each midnight both folders hold the same images, byte for byte; in between nothing that should still be
there is missing, and nothing that was retired comes back.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from storage.catalog import EventKind
from tests.checks.agent_house import AgentHouse
from tests.checks.fortnight import FIRST, midnight_after
from tests.commands import sha256_of
from tests.household import Household, Source
from tests.integration.agent_run import AgentRun

AT_WORK = ("ops.worker", "the agent")
"""With these, what they are at is killed."""
PARTS = ("ops.worker", "ops.worker", "ops.lookout", "-server", "the agent")
LAYER = {"retention": {"keep_intraday_days": 1, "keep_daily_days": 2}}
"""Days are short, so that much retires within few of them."""

VOLUME_BYTES = 1 << 20

_LATER = timedelta(minutes=25)
"""Each midnight's work begins so much later than the last one's: time passes while parts are killed, and what is due a
day after it was proven is to be due all the same."""


@dataclass
class Day:
    """What lands on a day, and what the folder holds after the midnight that ends it.

    Attributes:
        arrivals: when, and what.
        midnight: just after the day's end.
        left: SHA-256 by file name.
    """

    arrivals: list[tuple[datetime, Path]]
    midnight: datetime
    left: dict[str, str] = field(default_factory=dict)


def survive_kills(place: Path, *, kills: int, days: int, per_day: int, seed: int = 4) -> str:
    """Let days pass undisturbed, then again with kills.

    Args:
        place: for both.
        kills: how often something is killed.
        days: how many days pass.
        per_day: how many images land on each.
        seed: of the moments.

    Returns:
        What was shown, in words.
    """
    calendar = capture_days(place, days, per_day)
    live_undisturbed(place / "undisturbed", calendar)
    chance = random.Random(seed)
    run = AgentRun(place / "run")
    run.clock.set(FIRST)
    with run:
        house = AgentHouse(run)
        butcher = _Butcher(run, chance, kills, steps=days * (per_day + 1))
        gone: set[str] = set()
        for day in calendar:
            set_layer_once(house)
            gone |= live_a_day(house, butcher, day, gone)
        assert not run.events(EventKind.QUARANTINED)
        assert not run.events(EventKind.FOUND_BAD)
    assert butcher.done >= kills, f"{butcher.done} of {kills} kills"
    return f"{butcher.done} kills ({butcher.toll}), {len(gone)} images retired, {len(calendar[-1].left)} left"


def capture_days(place: Path, days: int, per_day: int) -> list[Day]:
    """Capture what lands on some days, into a folder aside."""
    stock = place / "stock"
    stock.mkdir(parents=True)
    source = Source(place / "volume.raw", VOLUME_BYTES)
    calendar = []
    for number in range(days):
        times = [FIRST + timedelta(days=number, hours=turn) for turn in range(per_day)]
        arrivals = [(time, source.capture_into(stock, time)) for time in times]
        calendar.append(Day(arrivals, midnight_after(times[-1]) + number * _LATER))
    return calendar


def live_undisturbed(place: Path, calendar: list[Day]) -> None:
    """Let days pass without kills, and take note of what each leaves."""
    house = Household(place, FIRST)
    house.set_layer(LAYER)
    for day in calendar:
        for now, path in day.arrivals:
            house.now = now
            shutil.copyfile(path, house.folder / path.name)
            house.settle()
        house.now = day.midnight
        house.settle()
        day.left = {path.name: sha256_of(path) for path in house.folder.iterdir() if path.is_file()}
    house.catalog.close()


class Butcher(Protocol):
    """Kills parts of agents, so many in each step."""

    def begin_step(self) -> None: ...

    def strike(self) -> None: ...

    def strike_once(self) -> None: ...


def live_a_day(house: AgentHouse, butcher: Butcher, day: Day, gone: set[str]) -> set[str]:
    """Let a day pass with kills; return the names that were retired at its end."""
    for now, path in day.arrivals:
        house.now = max(now, house.now)
        shutil.copyfile(path, house.folder / path.name)
        butcher.strike()
        must_not_be(house, gone)
    house.settle(pass_time=True)
    before = _names(house)
    house.now = day.midnight
    stays = before & day.left.keys()

    def watch() -> None:
        butcher.strike_once()
        names = _names(house)
        assert stays <= names, f"retired too early: {sorted(stays - names)}"
        must_not_be(house, gone)

    butcher.begin_step()
    house.settle(watch, pass_time=True)
    found = {path.name: sha256_of(path) for path in house.folder.iterdir() if path.is_file()}
    assert found == day.left, f"{day.midnight}: {sorted(found.keys() ^ day.left.keys())}"
    return before - found.keys()


def set_layer_once(house: AgentHouse) -> None:
    """Have the agent's folder keep images as shortly as the undisturbed one's."""
    [folder] = house.run.folders()
    if folder.settings != LAYER:
        house.set_layer(LAYER)


def must_not_be(house: AgentHouse, gone: set[str]) -> None:
    """Nothing that was retired lies in the folder again."""
    back = gone & _names(house)
    assert not back, f"came back: {sorted(back)}"


def _names(house: AgentHouse) -> set[str]:
    return {path.name for path in house.folder.iterdir() if path.is_file() and not path.name.startswith(".")}


@dataclass
class _Butcher:
    """Kills parts of an agent: so often in each step that all kills are done at the end.

    Attributes:
        run: the agent.
        chance: chooses parts and moments.
        kills: how many in all.
        steps: in so many steps.
    """

    run: AgentRun
    chance: random.Random
    kills: int
    steps: int
    done: int = 0
    begun: int = 0
    left: int = 0
    toll: dict[str, int] = field(default_factory=dict)

    def begin_step(self) -> None:
        self.begun += 1
        self.left = max(-(-self.kills * self.begun // self.steps) - self.done, 0)

    def strike(self) -> None:
        """Do all kills of a step, one after the other, each once something of the agent runs again."""
        self.begin_step()
        while self.left:
            self.strike_once()

    def strike_once(self) -> None:
        """Kill a part, or, one time in three, let this moment pass."""
        if not self.left or self.chance.random() < 1 / 3:
            return
        if self._kill(self.chance.choice(PARTS)):
            self.left -= 1
            self.done += 1

    def _kill(self, part: str) -> bool:
        if part in AT_WORK and self.run.one_more_crash_sets_aside():
            return False
        if part == "the agent":
            self.run.kill()
            self.run.start()
            self._count(part)
            return True
        for pid, line in self.run.processes().items():
            if part in line:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self._count(part)
                    return True
        return False

    def _count(self, part: str) -> None:
        self.toll[part] = self.toll.get(part, 0) + 1
