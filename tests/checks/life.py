"""A chain that lives by its plans: what lands, what is planned, what is done about it. No bytes, no clock."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from itertools import pairwise

from policies.consolidating import PlannedConsolidation
from policies.control import control_at
from policies.folder_policy import ControlPolicy, FolderPolicy
from policies.freezing import Freeze
from policies.holdings import Claim, Hold, Holding, Whereabouts, worth_remembering
from policies.lifecycle import ChainFacts, ChainPlan, plan_chain
from policies.outlook import Outlook
from policies.points import Point, PointId, Span

VOLUME_BYTES = 64 << 30


def point(number: int, time: datetime, line: str = "") -> Point:
    return Point(PointId(hashlib.md5(f"{number}{line}".encode()).digest()), number, time, VOLUME_BYTES)


def base_of(point: Point, volume: str = "D_VOL") -> Span:
    return Span(f"{volume}-b001.spf", None, (point,), stored_bytes=20 << 30)


def incremental(start: Point, end: Point, volume: str = "D_VOL", stored_bytes: int = 40 << 20) -> Span:
    return Span(f"{volume}-b001-i{end.number:03d}.spi", start, (end,), stored_bytes)


@dataclass
class Life:
    """A chain in a folder, and the agent that does what the plans say."""

    zone: tzinfo
    policy: FolderPolicy = field(default_factory=FolderPolicy)
    control: ControlPolicy = field(default_factory=ControlPolicy)
    volume: str = "D_VOL"
    holdings: dict[str, Holding] = field(default_factory=dict)
    seen_at: dict[PointId, datetime] = field(default_factory=dict)
    holds: tuple[Hold, ...] = ()
    claims: tuple[Claim, ...] = ()
    freezes: tuple[Freeze, ...] = ()
    waived: frozenset[str] = frozenset()
    outlook: Outlook | None = None
    plan: ChainPlan | None = None
    plans: int = 0
    quick_plans: int = 0
    planning_s: float = 0.0
    retired: list[tuple[datetime, str]] = field(default_factory=list)
    made: list[tuple[datetime, str]] = field(default_factory=list)

    @property
    def facts(self) -> ChainFacts:
        return ChainFacts(
            volume=self.volume,
            base_number=1,
            zone=self.zone,
            holdings=tuple(self.holdings.values()),
            seen_at=self.seen_at,
            holds=self.holds,
            claims=self.claims,
            freezes=self.freezes,
            waived=self.waived,
        )

    @property
    def present(self) -> list[Holding]:
        return [one for one in self.holdings.values() if one.is_present]

    @property
    def names(self) -> set[str]:
        return {one.name for one in self.present}

    # --- what happens

    def put(self, span: Span, now: datetime, *, verified: bool = True) -> Holding:
        """A file lands, and is verified at once unless told otherwise; nothing is planned."""
        holding = Holding(replace(span, verified=verified), now, now if verified else None)
        self.holdings[span.name] = holding
        self.seen_at |= worth_remembering([holding])
        return holding

    def land(self, span: Span, now: datetime) -> None:
        """A file lands and is found good: one event, one plan."""
        holding = self.put(span, now)
        begun = time.process_time()
        grown = None
        if self.outlook is not None:
            control = control_at(now, self.control, self.zone)
            grown = self.outlook.extended(holding, self.policy, control, now)
        self.planning_s += time.process_time() - begun
        if grown is None:
            self.live(now)
        else:
            self.outlook = grown
            self.quick_plans += 1

    def ask(self, now: datetime, *, started: bool = False) -> ChainPlan:
        """Plan, by the whole chain."""
        facts = self.facts
        begun = time.process_time()
        self.plan = plan_chain(facts, self.policy, now, self.control, started=started)
        self.planning_s += time.process_time() - begun
        self.plans += 1
        self.outlook = self.plan.outlook
        return self.plan

    def live(self, now: datetime, *, started: bool = False) -> ChainPlan:
        """Do all that is due until nothing is."""
        for _ in range(200):
            plan = self.ask(now, started=started)
            if plan.is_idle:
                return plan
            self.carry_out(plan, now)
        raise AssertionError("plans do not come to an end")

    def carry_out(self, plan: ChainPlan, now: datetime) -> None:
        for verification in plan.verifications:
            self.verify(verification.name, now)
        for consolidation in plan.consolidations:
            self.put(self.rolled_up(consolidation), now, verified=False)
            self.made.append((now, consolidation.name))
        for retirement in plan.retirements:
            self.retire(retirement.name, now)

    def verify(self, name: str, now: datetime) -> None:
        self.holdings[name] = found = self.holdings[name].found_good(now)
        self.seen_at |= worth_remembering([found])

    def retire(self, name: str, now: datetime) -> None:
        del self.holdings[name]
        self.retired.append((now, name))

    def rolled_up(self, planned: PlannedConsolidation) -> Span:
        sources = [self.holdings[name].span for name in planned.sources]
        for before, behind in pairwise(sources):
            assert behind.start == before.end
        assert all(self.holdings[name].is_proven for name in planned.sources)
        covers = tuple(point for source in sources for point in source.covers)
        assert (covers, sources[0].start, covers[-1]) == (planned.covers, planned.after, planned.upto)
        stored = int(sum(source.stored_bytes for source in sources) * 0.7)
        return Span(planned.name, planned.after, covers, stored)

    def judge_bad(self, name: str, fault: str = "a digest differs") -> None:
        known = self.holdings[name]
        self.holdings[name] = replace(known, span=replace(known.span, verified=False), fault=fault)

    def lose(self, name: str) -> None:
        self.holdings[name] = replace(self.holdings[name], place=Whereabouts.GONE)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
