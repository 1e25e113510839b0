"""Two agents on one PostgreSQL and one Redis over one folder, killed with -9 at work, now one and now the other.

Each runs on a machine of its own name, so that neither can see that the other's processes are gone: what the killed one
was at is free when its lease is over. The folder is that of an undisturbed household after each midnight, and nothing
was done twice.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from policies.errors import CatalogError
from storage.catalog import EventKind
from storage.catalog.holders import Holder
from tests.checks.agent_house import AgentHouse
from tests.checks.chaos import LAYER, capture_days, live_a_day, live_undisturbed
from tests.checks.fortnight import FIRST
from tests.integration.agent_run import AgentRun
from tests.queue_server import RedisServer
from tests.waiting import wait_for

ONCE = (EventKind.VERIFIED, EventKind.CONSOLIDATED, EventKind.RETIRING, EventKind.RETIRED, EventKind.DELETED)

_SLOWLY = {"verification": {"cpu_percent": 5}}
_NOW_AND_THEN = 4
"""After so many kills of an agent the Redis of both is killed, too, if it is to be."""


def share_a_folder(
    place: Path,
    catalogue_url: str,
    redis: RedisServer,
    *,
    days: int,
    per_day: int,
    kills: int,
    with_redis: bool = False,
) -> str:
    """Let days pass undisturbed, then again with two agents of which one is killed while images are worked on.

    Args:
        place: for both.
        catalogue_url: of an empty catalogue in PostgreSQL.
        redis: the agents' Redis, which runs.
        days: how many days pass.
        per_day: how many images land on each.
        kills: how often an agent is killed, at most once in each step: a step is an image or a midnight. Work may end
            before it can be killed, so have twice as many steps, nearly.
        with_redis: whether Redis is killed, too.

    Returns:
        What was shown, in words.
    """
    calendar = capture_days(place, days, per_day)
    live_undisturbed(place / "undisturbed", calendar)
    environment = {"REDIS_URL": redis.url}
    first = AgentRun(place / "castor", environment, catalogue_url=catalogue_url, host="castor")
    second = AgentRun(place / "pollux", environment, beside=first, catalogue_url=catalogue_url, host="pollux")
    first.clock.set(FIRST)
    with ExitStack() as stack:
        stack.push(first.start())
        wait_for(lambda: _is_managed(first), "the folder to be managed", 120)
        stack.push(second.start())
        for run in (first, second):
            run.wait_until_ready()
        house = AgentHouse(first)
        house.set_layer(LAYER | _SLOWLY)
        reaper = _Reaper(house, {"castor": first, "pollux": second}, redis if with_redis else None, kills)
        reaper.spared = max(days * (per_day + 1) - 2 * kills, 0)
        gone: set[str] = set()
        for day in calendar:
            gone |= live_a_day(house, reaper, day, gone)
        must_be_done_once(first)
    assert reaper.kills == kills, reaper.toll
    return f"{dict(reaper.toll)} killed at work, {len(gone)} images retired, {len(calendar[-1].left)} left"


def _is_managed(run: AgentRun) -> bool:
    try:
        return bool(run.folders())
    except CatalogError:
        return False  # its tables are being made


def must_be_done_once(run: AgentRun) -> None:
    """Each image was verified once, nothing else was done more than once, and nothing was given up.

    A consolidation whose agent was killed after it published and before it recorded has no event: its result is found
    by the next scan, and not made again.
    """
    for kind in ONCE:
        told = Counter(event.subject for event in run.events(kind))
        assert set(told.values()) <= {1}, f"{kind}: {told}"
    verified = {event.subject for event in run.events(EventKind.VERIFIED)}
    assert verified >= {path.name for path in run.folder.iterdir() if path.suffix in (".spf", ".spi")}
    for kind in (EventKind.QUARANTINED, EventKind.FOUND_BAD, EventKind.BROUGHT_BACK, EventKind.FOLDER_LOST):
        assert not run.events(kind), kind
    wait_for(lambda: not run.attempts(), "work that came to nothing to be forgotten")


@dataclass
class _Reaper:
    """Kills the agent that is at work, once in each step; it is started again in the next.

    Attributes:
        house: of either agent.
        runs: the agents, by the names of their machines.
        redis: is killed now and then; None if not.
        kills_wanted: so often an agent is to be killed, together.
        toll: how often each was killed.
        down: the agent that is not running.
        is_due: whether one is still to be killed in this step.
        spared: so many steps pass before the first kill.
    """

    house: AgentHouse
    runs: dict[str, AgentRun]
    redis: RedisServer | None
    kills_wanted: int
    toll: Counter[str] = field(default_factory=Counter)
    down: str | None = None
    is_due: bool = False
    spared: int = 0

    @property
    def kills(self) -> int:
        return sum(self.toll[host] for host in self.runs)

    def begin_step(self) -> None:
        if self.down is not None:
            self.runs[self.down].start().wait_until_ready()
            self.down = None
        self.spared -= 1
        self.is_due = self.spared < 0 and self.kills < self.kills_wanted

    def strike(self) -> None:
        """Kill an agent at work on what has just landed, and see the other take it over."""
        self.begin_step()
        wait_for(lambda: self._strike_at_work() or self.house.is_settled(), "an agent at work", 120)
        self.house.settle(pass_time=True)

    def strike_once(self) -> None:
        self._strike_at_work()

    def _strike_at_work(self) -> bool:
        """Kill whoever is at work now, unless that was done in this step."""
        host = self._at_work() if self.is_due else None
        if host is None:
            return False
        self.runs[host].kill()
        self.down, self.is_due = host, False
        self.toll[host] += 1
        if self.redis is not None and self.kills % _NOW_AND_THEN == 0:
            self.redis.kill()
            self.redis.start()
            self.toll["Redis"] += 1
        return True

    def _at_work(self) -> str | None:
        try:
            holders = [attempt.holder for attempt in self.runs["castor"].attempts() if attempt.holder]
        except CatalogError:
            return None
        hosts = sorted({Holder.parse(holder).host for holder in holders} & self.runs.keys())
        return min(hosts, key=lambda host: (self.toll[host], host), default=None)
