"""The life of a chain: whatever lands, in whatever order, plans come to an end and lose nothing that was promised.

Images come late, twice at once, forged in time, bad, along forks and over gaps; people hold, disks claim. What is
planned is done on the naive byte model, and after every step each point that was promised is restored from bytes.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from policies.ancestry import trace_ancestry, trace_joints
from policies.calendar import MonthEnd, Weekday
from policies.control import control_at
from policies.cursor import Cursor, roll_on_path
from policies.folder_policy import (
    ConsolidationPolicy,
    ControlPolicy,
    FolderPolicy,
    RetentionPolicy,
    VerificationPolicy,
)
from policies.holdings import Claim, Hold, Holding
from policies.lifecycle import ChainPlan, plan_chain
from policies.outlook import outlook_from_plain
from policies.points import Point, PointId, Span
from policies.retention import Ground
from policies.timeline import first_sights, trace_timeline
from tests.checks.life import Life
from tests.property.byte_model import DISK_BYTES, Image, apply, merge
from tests.property.worlds import START, World, worlds

SEEDS = st.integers(0, (1 << 48) - 1)
ZONES = [ZoneInfo(name) for name in ("UTC", "Europe/Berlin", "America/New_York", "Pacific/Apia")]
FAULT = "a digest differs"


@dataclass(frozen=True)
class Landing:
    """An image that lands."""

    at: datetime
    image: Image
    is_good: bool
    proven_after: timedelta


class ByteLife(Life):
    """A life whose images have bytes."""

    images: dict[str, Image]
    states: dict[PointId, bytes]

    def carry_out(self, plan: ChainPlan, now: datetime) -> None:
        before = self.restorable()
        present = {one.name: one for one in self.present}
        super().carry_out(plan, now)
        for planned in plan.consolidations:
            made = merge([self.images[name] for name in planned.sources], planned.name)
            self.images[planned.name] = Image(self.holdings[planned.name].span, made.content)
        self.check_removals(plan, present, now)
        for_others = {fate.holding.name for fate in plan.fates if fate.ground is Ground.NEEDED}
        kept = [one.span for one in self.present if one.name not in for_others]
        promised = {span.end.id for span in kept} | {span.start.id for span in kept if span.start is not None}
        promised |= {hold.point for hold in self.holds if hold.point is not None}
        promised |= {self.holdings[hold.name].span.end.id for hold in self.holds if hold.name is not None}
        assert before & promised <= self.restorable()

    def check_removals(self, plan: ChainPlan, present: dict[str, Holding], now: datetime) -> None:
        """Nothing goes but what another holds that was proven long enough ago, and that nobody asked for."""
        keep = self.policy.retention
        days = {"daily": keep.keep_daily_days, "weekly": keep.keep_weekly_days}
        asked_for = {hold.name for hold in self.holds}.union(
            *(c.names for c in self.claims if c.is_alive(now))
        )
        assert not plan.retirements or not plan.freezes
        for gone in plan.retirements:
            known, cover = present[gone.name], self.holdings[gone.covered_by]
            assert gone.name not in asked_for
            assert known.span.start is not None
            held = {point.id for point in (known.span.start, *known.span.covers)}
            assert cover.span.start is not None
            assert held <= {point.id for point in (cover.span.start, *cover.span.covers)}
            assert cover.is_proven
            assert cover.rank > known.rank or len(cover.span.covers) > len(known.span.covers)
            fate = plan.fate_of(gone.name)
            assert fate is not None
            assert fate.cover is not None
            assert fate.cover.verified_at is not None
            waited = now - max(fate.cover.verified_at, fate.cover.first_seen_at, known.first_seen_at)
            assert waited >= timedelta(days=days.get(known.tier.value, keep.keep_intraday_days))
            if known.tier.value == "monthly":
                assert self.policy.retention.expire_monthlies

    def restorable(self) -> set[PointId]:
        """Tell which points can be restored, by doing it: on a disk full of rubbish, every way there is."""
        rubbish = bytes(range(100, 100 + DISK_BYTES))
        proven = [self.images[one.name] for one in self.present if one.is_proven]
        disks: dict[PointId, bytes] = {}
        todo = [(image, rubbish) for image in proven if image.span.start is None]
        while todo:
            image, disk = todo.pop()
            reached = apply(image, disk)
            assert reached == self.states[image.span.end.id]
            if image.span.end.id not in disks:
                disks[image.span.end.id] = reached
                todo += [(on, reached) for on in proven if on.span.holds(image.span.end.id)]
        return set(disks)


def named(chance: random.Random, image: Image, number: int) -> Image:
    """Give an image a name that says what it may be."""
    span, end = image.span, image.span.end.number
    stem = f"D{number}_VOL-b001"
    if span.start is None:
        name = f"{stem}.spf" if end == 0 else f"{stem}-i{end:03d}.spf"
    elif len(span.covers) == 1:
        name = f"{stem}-i{end:03d}.spi"
    else:
        name = f"{stem}-i{end:03d}{chance.choice(['-cd', '-cd', '-cw', '-cm'])}.spi"
    return Image(replace(span, name=name, verified=False), image.content)


def retimed(world: World, chance: random.Random) -> dict[PointId, Point]:
    """Stretch time, so that weeks and months pass; forge some stamps; give each line numbers of its own."""
    own_numbers = chance.random() < 0.6
    scale = chance.choice([1, 1, 4, 12])
    told: dict[PointId, Point] = {}
    for index, state in enumerate(world.states):
        time = START + (state.point.time - START) * scale
        forged = chance.random()
        if forged < 0.08:
            time += timedelta(days=chance.choice([1, 40, 400]))
        elif forged < 0.16:
            time -= timedelta(days=chance.choice([1, 40, 400]))
        number = index if own_numbers else state.point.number
        told[state.point.id] = replace(state.point, time=time, number=number)
    return told


def landings(world: World, chance: random.Random, told: dict[PointId, Point]) -> list[Landing]:
    """Let each image land: most when it was captured, some late, some bad, some verified late."""
    scale = chance.choice([1, 1, 4, 12])
    found = []
    for number, original in enumerate(world.images):
        start = original.span.start
        span = Span(
            original.span.name,
            None if start is None else told[start.id],
            tuple(told[point.id] for point in original.span.covers),
            stored_bytes=chance.randint(1, 100),
        )
        image = named(chance, Image(span, original.content), number)
        captured = START + (world.state(original.span.end).point.time - START) * scale
        late = chance.choice([0, 0, 0, 0, 1, 3, 10]) * timedelta(days=chance.randint(1, 5))
        at = captured + timedelta(minutes=chance.randint(1, 30)) + late
        proven_after = chance.choice([timedelta(0), timedelta(0), timedelta(hours=30)])
        found.append(Landing(at, image, chance.random() > 0.08, proven_after))
    return sorted(found, key=lambda landing: (landing.at, landing.image.span.name))


def some_policy(chance: random.Random) -> FolderPolicy:
    consolidation = ConsolidationPolicy(
        week_end=chance.choice(list(Weekday)),
        month_end=chance.choice([MonthEnd(), MonthEnd(10), MonthEnd(weekday=Weekday.FRIDAY)]),
        rolling=chance.random() < 0.4,
        rolling_after_months=1,
        rolling_yearly=chance.random() < 0.5,
    )
    retention = RetentionPolicy(
        keep_intraday_days=chance.randint(1, 3),
        keep_daily_days=chance.randint(1, 5),
        keep_weekly_days=chance.randint(1, 20),
        expire_monthlies=chance.random() < 0.5,
    )
    verification = VerificationPolicy(reverify=chance.random() < 0.3, reverify_days=chance.randint(1, 30))
    return FolderPolicy(verification, consolidation, retention)


def new_life(chance: random.Random, world: World) -> ByteLife:
    life = ByteLife(chance.choice(ZONES), some_policy(chance))
    life.images, life.states = {}, {state.point.id: state.disk for state in world.states}
    return life


def some_needs(life: ByteLife, chance: random.Random, now: datetime) -> None:
    """Place a hold or a claim on something that is there, as people and disks do."""
    proven = [one for one in life.present if one.is_proven]
    restorable = sorted(life.restorable())
    if not proven or not restorable:
        return
    one = chance.choice(proven)
    kind = chance.randrange(4)
    if kind == 0:
        life.holds += (Hold("wanted", "ann", now, name=one.name),)
    elif kind == 1:
        life.holds += (Hold("wanted", "ann", now, point=chance.choice(restorable)),)
    elif kind == 2:
        life.claims += (Claim("a transfer", now, now + timedelta(days=3), frozenset({one.name})),)
    elif one.span.start is not None:
        standing = Cursor((one.span.start, one.span.end))
        life.claims += (Claim("a job", now, None, frozenset(), one.span.end, standing),)


def check_claims(life: ByteLife, now: datetime) -> None:
    """What a disk needs that is torn between two points: an image that holds both."""
    spans = [one.span for one in life.present if one.is_proven]
    for claim in life.claims:
        if claim.target is not None and claim.standing is not None and claim.is_alive(now):
            assert roll_on_path(claim.standing, spans, claim.target.id) is not None


@given(worlds(days=True), SEEDS)
def test_plans_end_and_what_is_promised_is_restored_byte_for_byte(world: World, seed: int) -> None:
    chance = random.Random(seed)
    life = new_life(chance, world)
    todo = landings(world, chance, retimed(world, chance))
    moments = [landing.at for landing in todo] or [START]
    days = (max(moments) - min(moments)).days + 70
    ticks = [min(moments) + timedelta(days=day, hours=3) for day in range(0, days, max(1, days // 25))]
    unproven: list[tuple[datetime, str]] = []
    for now in sorted({*moments, *ticks}):
        while todo and todo[0].at <= now:
            landing = todo.pop(0)
            name = landing.image.span.name
            life.images[name] = landing.image
            life.put(landing.image.span, now, verified=landing.is_good and not landing.proven_after)
            if not landing.is_good:
                life.judge_bad(name, FAULT)
            unproven.append((now + landing.proven_after, name))
        if chance.random() < 0.15:
            some_needs(life, chance, now)
        if chance.random() < 0.03:
            life.policy, life.zone = some_policy(chance), chance.choice(ZONES)
        plan = life.live(now)
        assert life.ask(now) == plan, "a second plan changes nothing"
        check_claims(life, now)
        assert plan.next_due_at is None or plan.next_due_at > now


@given(worlds(gaps=False, more_max=0, days=True), SEEDS)
def test_with_nothing_missing_every_old_point_gets_into_its_monthly(world: World, seed: int) -> None:
    chance = random.Random(seed)
    life = new_life(chance, world)
    life.policy = replace(life.policy, consolidation=replace(life.policy.consolidation, rolling=False))
    told = {state.point.id: state.point for state in world.states}
    originals: dict[PointId, Image] = {}
    for landing in landings(world, chance, told):
        life.images[landing.image.span.name] = originals[landing.image.span.end.id] = landing.image
        life.put(landing.image.span, landing.at)
    end = max(one.first_seen_at for one in life.present)
    for day in (1, 40, 80, 120):
        life.live(end + timedelta(days=day))
    numbers = [state.point.number for state in world.states]
    if len(set(numbers)) < len(numbers):
        return  # results of two lines would have the same name: the second waits
    tree = trace_timeline((one.span for one in life.present), life.zone).tree
    assert all(one.tier.value == "monthly" for one in life.present if one.span.start is not None)
    covered = {point.id for one in life.present for point in one.span.covers}
    assert covered == set(life.states)
    for one in life.present:
        steps = [originals[point.id] for point in one.span.covers]
        assert life.images[one.name].content == merge(steps, "m").content, "as if made of the incrementals"
    assert life.restorable() >= set(tree.points)


@given(worlds(gaps=False, more_max=2, days=True), SEEDS)
def test_the_outlook_says_what_the_plan_of_the_whole_chain_says(world: World, seed: int) -> None:
    chance = random.Random(seed)
    life = new_life(chance, world)
    for landing in landings(world, chance, retimed(world, chance)):
        life.images[landing.image.span.name] = landing.image
        holding = life.put(landing.image.span, landing.at, verified=landing.is_good)
        if life.outlook is not None:
            control = control_at(landing.at, life.control, life.zone)
            grown = life.outlook.extended(holding, life.policy, control, landing.at)
            if grown is not None:
                plan = plan_chain(life.facts, life.policy, landing.at, life.control)
                assert plan.is_idle
                assert plan.outlook is not None
                assert set(grown.ends) == set(plan.outlook.ends)
                assert (grown.highest, grown.made_at) == (plan.outlook.highest, plan.outlook.made_at)
                if grown.next_due_at != plan.outlook.next_due_at:
                    # sooner at times, where a gap keeps the day from being rolled up; never too late
                    assert grown.next_due_at is not None
                    assert plan.next_due_at is None or grown.next_due_at < plan.next_due_at
                life.outlook = outlook_from_plain(json.loads(json.dumps(grown.as_plain())))
                assert life.outlook == grown
                continue
        if chance.random() < 0.8:
            life.live(landing.at)
        else:
            life.outlook = None


@given(worlds(days=True), SEEDS)
def test_times_never_fall_along_a_line_nor_pass_what_was_seen(world: World, seed: int) -> None:
    chance = random.Random(seed)
    found = landings(world, chance, retimed(world, chance))
    zone = chance.choice(ZONES)
    sights = first_sights([(one.image.span, one.at) for one in found], {})
    now = max((one.at for one in found), default=START)
    timeline = trace_timeline([one.image.span for one in found], zone, sights, now)
    for identity, place in timeline.places.items():
        parent = timeline.tree.parents.get(identity)
        assert place.time <= min(now, sights[identity])
        if parent is not None:
            above = timeline.places[parent.id]
            assert (above.time, above.day) <= (place.time, place.day)
        else:
            assert place.time == min([place.point.time, place.time])
    shuffled = [one.image.span for one in found]
    chance.shuffle(shuffled)
    assert trace_timeline(shuffled, zone, sights, now) == timeline


@given(worlds(days=True))
def test_the_tree_of_joints_is_the_whole_tree_without_the_rest(world: World) -> None:
    whole, joints = trace_ancestry(world.spans), trace_joints(world.spans)
    ends = {span.end.id for span in world.spans} | {
        span.start.id for span in world.spans if span.start is not None
    }
    assert set(joints.points) == ends
    for identity in ends:
        above = whole.parents.get(identity)
        while above is not None and above.id not in ends:
            above = whole.parents.get(above.id)
        assert joints.parents.get(identity) == above


def test_control_off_means_that_nothing_is_done_until_a_person_starts_it() -> None:
    """The same chain, with the daily work off, on, and started by hand."""
    life = Life(ZoneInfo("UTC"), control=ControlPolicy(enabled=False))
    told = [Point(PointId(bytes([n]) * 16), n, START + timedelta(hours=n), 1000) for n in range(4)]
    life.put(Span("D_VOL-b001.spf", None, (told[0],)), START)
    for older, newer in pairwise(told):
        life.put(Span(f"D_VOL-b001-i{newer.number:03d}.spi", older, (newer,)), newer.time)
    later = START + timedelta(days=9)
    plan = life.ask(later)
    assert plan.is_idle
    assert plan.next_due_at is None
    assert life.ask(later, started=True).consolidations
