"""What is planned for a chain: what stays and why, who needs what, what looks wrong."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from policies.calendar import day_bounds, day_of
from policies.control import control_at
from policies.cursor import Cursor
from policies.folder_policy import (
    ConsolidationPolicy,
    ControlPolicy,
    FolderPolicy,
    RetentionPolicy,
    VerificationPolicy,
)
from policies.freezing import Freeze, FreezeKind
from policies.holdings import Claim, Hold, Holding, Whereabouts, worth_remembering
from policies.names import Tier
from policies.outlook import outlook_from_plain
from policies.points import Point, Span
from policies.retention import Ground
from policies.reverify import VerificationCause
from tests.checks.life import Life, base_of, incremental, point, utc

START = utc("2026-01-05 00:00")  # a Monday
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
QUIET = FolderPolicy(verification=VerificationPolicy(reverify=False))
A_FREEZE = Freeze(FreezeKind.GREW, "grew 1", START, "an incremental is huge", "in time")


def new_life(days: float = 0, policy: FolderPolicy = QUIET, *, every: timedelta = 6 * HOUR) -> Life:
    """A chain with four incrementals a day, all that is due being done."""
    life = Life(UTC, policy)
    life.points = [point(0, START)]
    life.put(base_of(life.points[0]), START)
    grow(life, days, every=every)
    return life


def grow(life: Life, days: float, *, every: timedelta = 6 * HOUR) -> datetime:
    """Let a chain grow; give the moment at which it has, all work being done."""
    now = life.points[-1].time
    end = now + days * DAY
    while now + every < end:
        midnight = day_bounds(day_of(now, UTC), UTC)[1]
        now += every
        if midnight <= now:
            life.live(midnight)
        taken = point(len(life.points), now)
        life.land(incremental(life.points[-1], taken), now)
        life.points.append(taken)
    life.live(end)
    return end


def name(number: int, tier: str = "") -> str:
    return f"D_VOL-b001-i{number:03d}{tier}.spi"


def fate(life: Life, of: str):
    assert life.plan is not None
    found = life.plan.fate_of(of)
    assert found is not None, f"{of} is not there: {sorted(life.names)}"
    return found


# --- why each stays or goes


def test_every_image_has_a_reason():
    life = new_life(30)
    reasons = {one.holding.name: one.reason for one in life.plan.fates}
    assert set(reasons) == life.names
    assert reasons["D_VOL-b001.spf"] == "all images of the chain lead on from it"
    assert reasons[name(119)] == (
        f"it is rolled up into {name(119, '-cd')}, and stays until 2026-02-11 00:00 UTC"
    )
    assert fate(life, name(119, "-cd")).reason == "no verified image of a higher tier holds all that it does"
    assert fate(life, name(107, "-cw")).ground is Ground.YOUNG
    assert fate(life, name(107, "-cw")).due_at == utc("2026-02-01 00:00") + 90 * DAY
    assert fate(life, name(107, "-cm")).reason == "monthly images stay for good"


def test_days_are_counted_from_when_the_cover_was_proven_to_the_minute():
    life = new_life(7)
    due_at = utc("2026-01-06 00:00") + 7 * DAY
    assert name(3) in life.names
    before = life.ask(due_at - timedelta(seconds=1))
    assert (before.retirements, before.next_due_at) == ((), due_at)
    plan = life.ask(due_at)
    assert [one.name for one in plan.retirements] == [name(1), name(2), name(3)]
    assert plan.retirements[0].covered_by == name(3, "-cd")
    assert plan.retirements[0].reason == (
        f"it is rolled up into {name(3, '-cd')}, and its days ended on 2026-01-13 00:00 UTC"
    )
    assert not plan.retirements[0].to_incrementals


def test_a_daily_that_is_not_verified_lets_nothing_go():
    life = new_life(1.1)
    cover = life.holdings[name(3, "-cd")]
    life.holdings[cover.name] = replace(cover, span=replace(cover.span, verified=False), verified_at=None)
    plan = life.ask(START + 40 * DAY)
    assert fate(life, name(1)).ground is Ground.NOT_ROLLED_UP
    assert plan.retirements == ()
    assert (plan.verifications[0].name, plan.verifications[0].cause) == (cover.name, VerificationCause.NEW)


def test_what_came_late_stays_its_days_too():
    life = new_life(30)
    now = life.plan.outlook.made_at
    life.put(incremental(life.points[4], life.points[5]), now)
    life.live(now)
    assert fate(life, name(5)).due_at == now + 7 * DAY


def test_moving_aside_in_place_of_deleting():
    policy = replace(QUIET, retention=RetentionPolicy(move_to_incrementals=True))
    life = new_life(7, policy)
    plan = life.ask(START + 9 * DAY)
    assert plan.retirements
    assert all(one.to_incrementals for one in plan.retirements)
    moved = life.holdings[name(1)]
    life.holdings[name(1)] = replace(moved, place=Whereabouts.ASIDE)
    assert life.ask(START + 9 * DAY).fate_of(name(1)) is None


def test_monthlies_go_only_where_that_is_asked_for_and_a_rolling_image_holds_them():
    rolling = ConsolidationPolicy(rolling=True, rolling_after_months=1, rolling_yearly=False)
    life = new_life(100, replace(QUIET, consolidation=rolling), every=DAY)
    assert fate(life, name(26, "-cm")).ground is Ground.PERMANENT
    assert name(26, "-cr") not in life.names, "a larger one took its place"
    rolled = max((one for one in life.present if one.tier is Tier.ROLLING), key=lambda one: one.name)
    assert len(rolled.span.covers) == 26 + 28
    life.policy = replace(life.policy, retention=RetentionPolicy(expire_monthlies=True))
    life.live(life.points[-1].time + DAY)
    assert name(26, "-cm") not in life.names


def test_what_only_a_name_vouches_for_stays_and_vouches_for_nothing():
    life = new_life(3)
    foreign = Span(name(900, "-cm"), life.points[0], tuple(life.points[1:9]), 10, assumed=True)
    life.put(foreign, START)
    plan = life.live(START + 60 * DAY)
    assert plan.fate_of(foreign.name).ground is Ground.ASSUMED
    assert all(one.covered_by != foreign.name for one in plan.retirements)


def test_switched_off_nothing_is_rolled_up_or_removed():
    life = new_life(7)
    off = replace(QUIET, consolidation=ConsolidationPolicy(enabled=False))
    now = START + 60 * DAY
    life.policy = off
    plan = life.ask(now)
    assert plan.is_idle
    assert plan.fate_of(name(1)).reason == (
        f"it is rolled up into {name(3, '-cd')}, but consolidation is switched off for this folder"
    )
    life.policy, life.control = QUIET, ControlPolicy(enabled=False)
    plan = life.ask(now)
    assert plan.is_idle
    assert plan.fate_of(name(1)).ground is Ground.SUSPENDED
    assert life.ask(now, started=True).retirements


# --- who needs what


def test_a_hold_on_a_file_and_on_a_point():
    life = new_life(7)
    life.holds = (
        Hold("for the audit", "ann", START, name=name(2)),
        Hold("a good state", "bob", START, point=life.points[6].id),
    )
    life.live(START + 30 * DAY)
    assert fate(life, name(2)).reason == "the hold of ann (for the audit) needs it"
    assert fate(life, name(1)).ground is Ground.NEEDED, "the held file cannot be applied without it"
    assert "needs point" in fate(life, name(6)).reason
    assert name(3) not in life.names
    assert name(8) not in life.names
    life.holds = ()
    life.live(START + 30 * DAY)
    assert not {name(1), name(2), name(6)} & life.names


def test_a_hold_may_end_by_itself():
    life = new_life(7)
    now = START + 30 * DAY
    life.holds = (Hold("until the audit", "ann", START, name=name(2), until=now + DAY),)
    plan = life.live(now)
    assert plan.fate_of(name(2)).ground is Ground.HELD
    assert plan.next_due_at <= now + DAY
    life.live(now + DAY)
    assert name(2) not in life.names


def test_claims_of_work_end_by_themselves_and_those_of_disks_do_not():
    life = new_life(7)
    now = START + 30 * DAY
    life.claims = (
        Claim("a transfer", now - DAY, now + DAY, frozenset({name(9)})),
        Claim("a job", now - 40 * DAY, None, target=life.points[6], standing=Cursor.closed(life.points[5])),
    )
    plan = life.live(now)
    assert plan.fate_of(name(9)).ground is Ground.HELD
    assert plan.fate_of(name(6)).ground is Ground.NEEDED
    assert "a disk that stands at 5 rolled on to point 6" in plan.fate_of(name(6)).reason
    assert plan.next_due_at <= now + DAY
    assert life.claims[1].is_old(now)
    assert not life.claims[0].is_old(now)
    life.live(now + DAY)
    assert name(9) not in life.names
    assert name(6) in life.names


def test_what_a_promise_needs_that_is_not_verified_yet_is_waited_for():
    life = new_life(7)
    taken = point(900, life.points[6].time + HOUR)
    late = incremental(life.points[6], taken)
    life.put(late, START + 8 * DAY, verified=False)
    life.claims = (Claim("a job", START, None, target=taken),)
    plan = life.ask(START + 30 * DAY)
    assert plan.retirements == ()
    assert plan.freezes == ()
    assert plan.fate_of(name(1)).reason.endswith("a job needs what is not verified yet")


def test_a_late_fork_keeps_the_point_that_it_leads_on_from():
    life = new_life(7)
    taken = replace(point(7, life.points[6].time + HOUR, "'"), number=900)
    life.put(Span("D_VOL-b001-i900.spi", life.points[6], (taken,), 10), START + 8 * DAY, verified=False)
    life.ask(START + 30 * DAY)
    assert fate(life, name(6)).stays
    life.policy = replace(QUIET, consolidation=ConsolidationPolicy(rolling_after_months=1))
    life.judge_bad("D_VOL-b001-i900.spi")
    life.live(START + 30 * DAY)
    assert {name(5), name(6)} <= life.names, "a good copy of it may come"
    assert fate(life, name(6)).ground is Ground.NEEDED
    assert fate(life, name(7)).ground is Ground.FROZEN
    life.waived = frozenset(freeze.key for freeze in life.plan.freezes)
    life.live(START + 30 * DAY)
    assert fate(life, name(6)).ground is Ground.NEEDED
    assert name(7) not in life.names


# --- what looks wrong


def test_a_freeze_keeps_everything_and_a_waiver_ends_it():
    life = new_life(7)
    now = START + 30 * DAY
    life.freezes = (A_FREEZE,)
    plan = life.live(now)
    assert plan.freezes == (A_FREEZE,)
    assert name(1) in life.names
    assert plan.fate_of(name(1)).reason.endswith("but nothing is removed at present: an incremental is huge")
    life.waived = frozenset({"grew 1"})
    life.live(now)
    assert name(1) not in life.names


def test_a_chain_that_is_broken_is_frozen_until_it_is_repaired():
    life = new_life(8.1)
    now = START + 8.1 * DAY
    life.judge_bad(name(30), "digest differs at byte 4,096")
    plan = life.ask(now)
    (freeze,) = plan.freezes
    assert freeze.kind is FreezeKind.BROKEN
    assert freeze.since == now
    assert freeze.reason == f"point 30 is out of reach: {name(30)} is bad (digest differs at byte 4,096)"
    life.freezes = (freeze,)
    later = life.ask(now + HOUR)
    assert later.freezes == (freeze,), "it goes on, since when it began"
    life.waived = frozenset({freeze.key})
    assert life.ask(now).freezes == ()
    life.waived = frozenset()
    life.verify(name(30), now)
    assert life.ask(now).freezes == (), "it ends by itself"


def test_what_is_bad_and_rolled_up_goes_in_its_time():
    life = new_life(4)
    life.judge_bad(name(2))
    now = START + 5 * DAY
    assert [freeze.kind for freeze in life.ask(now).freezes] == [FreezeKind.BROKEN]
    plan = life.ask(START + 8 * DAY)
    assert plan.freezes == ()
    assert name(2) in {one.name for one in plan.retirements}


def test_a_file_that_is_gone_breaks_what_follows():
    life = new_life(0.9)
    life.lose(name(2))
    (freeze,) = life.ask(START + DAY).freezes
    assert freeze.reason == f"no good image leads to point 2, from which {name(3)} leads on"
    life.put(incremental(life.points[1], life.points[2]), START + DAY, verified=False)
    assert life.ask(START + DAY).freezes == (), "it came back, and will be verified"


def test_a_promise_that_nothing_keeps_is_a_broken_chain():
    life = new_life(3)
    life.claims = (Claim("a job", START, None, target=Point(life.points[0].id, 0, START, 1)),)
    assert life.ask(START + 3 * DAY).freezes == ()
    life.claims = (Claim("a job", START, None, target=point(77, START)),)
    (freeze,) = life.ask(START + 3 * DAY).freezes
    assert "a job needs point 77 restored, and no verified images lead there even now" in freeze.reason


def test_while_the_clock_is_wrong_nothing_is_rolled_up_verified_again_or_removed():
    life = new_life(6.9, FolderPolicy())
    life.freezes = (Freeze(FreezeKind.CLOCK, "clock 1", START, "it jumped", "in time"),)
    plan = life.ask(START + 400 * DAY)
    assert plan.is_idle
    assert {wait.reason for wait in plan.waits} == {"the clock cannot be trusted: it jumped"}
    life.freezes = ()
    assert not life.ask(START + 400 * DAY).is_idle


# --- what is read back


def test_new_images_come_first_then_those_that_are_needed_then_by_their_day():
    policy = FolderPolicy(verification=VerificationPolicy(verify_new=True, reverify_days=1))
    life = new_life(1.9, policy)
    taken = point(len(life.points), START + 1.95 * DAY)
    life.put(incremental(life.points[-1], taken), START + 1.95 * DAY, verified=False)
    plan = life.ask(START + 2 * DAY)
    assert [one.cause for one in plan.verifications[:2]] == [
        VerificationCause.NEW,
        VerificationCause.PERIODIC,
    ]
    assert plan.verifications[0].reason == "it is new"
    assert plan.verifications[1].reason.endswith("UTC, and is verified every 1 days")
    assert {one.name for one in plan.verifications} == life.names
    life.policy = replace(policy, verification=VerificationPolicy(verify_new=False, reverify=False))
    plan = life.ask(START + 2 * DAY)
    assert [(one.name, one.cause) for one in plan.verifications] == [
        (name(taken.number), VerificationCause.NEEDED)
    ]
    assert plan.waits[0].reason == f"verification of {name(taken.number)} comes first"


def test_each_image_has_its_day_and_none_waits_longer_than_the_period():
    policy = FolderPolicy(
        verification=VerificationPolicy(reverify_days=7), consolidation=ConsolidationPolicy(enabled=False)
    )
    life = new_life(0, policy)
    now = START + HOUR
    for number in range(1, 400):
        life.points.append(point(number, START + timedelta(minutes=number)))
        life.put(incremental(life.points[-2], life.points[-1]), now)
    checked: dict[str, list[datetime]] = {}
    amounts = []
    for day in range(1, 22):
        midnight = START + day * DAY
        plan = life.ask(midnight)
        amounts.append(len(plan.verifications))
        for one in plan.verifications:
            checked.setdefault(one.name, [now]).append(midnight)
        life.live(midnight)
    assert set(checked) == life.names
    for moments in checked.values():
        assert all(later - earlier <= 7 * DAY for earlier, later in pairwise(moments))
        assert len(moments) == 4
    assert max(amounts) < 2 * 400 / 7


def test_times_that_have_not_come_yet_are_set_right_by_the_next_look():
    told = Holding(
        incremental(point(0, START), point(1, START + 900 * DAY)), START + 500 * DAY, START + 500 * DAY
    )
    found = told.found_good(START)
    assert (found.first_seen_at, found.verified_at, found.checked_at) == (START, START, START)
    assert found.is_proven
    assert worth_remembering([found]) == {found.span.end.id: START}
    assert worth_remembering([replace(found, span=incremental(point(0, START), point(1, START)))]) == {}


# --- times that cannot be right


def test_a_forged_day_does_not_change_when_the_files_are_gone_that_told_when_it_was_seen():
    life = Life(UTC, QUIET)
    life.points = [point(0, START)]
    life.put(base_of(life.points[0]), START)
    grow(life, 0.9)
    forged = point(len(life.points), START + 800 * DAY)
    life.land(incremental(life.points[-1], forged), START + 0.95 * DAY)
    life.points.append(replace(forged, time=forged.time))
    later = point(len(life.points), START + 1.2 * DAY)
    life.live(START + DAY)
    life.land(incremental(forged, later), later.time)
    made = {one.name for one in life.present if one.tier is Tier.DAILY}
    assert made == {name(forged.number, "-cd")}
    life.points[-1] = forged
    life.points.append(later)
    grow(life, 25)
    assert name(forged.number) not in life.names
    assert life.plan.waits == ()
    assert name(forged.number + 20, "-cw") in life.names


def test_a_stamp_of_the_future_falls_to_when_it_was_seen():
    life = new_life(0.9)
    forged = point(len(life.points), START + 800 * DAY)
    life.land(incremental(life.points[-1], forged), START + 0.95 * DAY)
    life.live(START + 1.01 * DAY)
    assert name(forged.number, "-cd") in life.names


# --- the outlook


@pytest.mark.parametrize(
    ("change", "is_told"),
    [
        (lambda one: one, True),
        (lambda one: replace(one, span=replace(one.span, verified=False)), False),
        (lambda one: replace(one, fault="bad"), False),
        (lambda one: replace(one, first_seen_at=START), False),
        (lambda one: replace(one, first_seen_at=START + 30 * DAY), False),
        (lambda one: replace(one, span=replace(one.span, start=None)), False),
        (lambda one: replace(one, span=replace(one.span, start=point(3, START))), False),
        (lambda one: replace(one, span=replace(one.span, covers=(point(9, START), one.span.end))), False),
        (lambda one: replace(one, span=replace(one.span, covers=(replace(one.span.end, number=4),))), False),
        (lambda one: replace(one, span=replace(one.span, name=name(7, "-cd"))), False),
    ],
)
def test_an_outlook_tells_of_plain_growth_alone(change, is_told):
    life = new_life(1.8)
    now = life.points[-1].time + HOUR
    taken = point(len(life.points), now)
    holding = change(Holding(replace(incremental(life.points[-1], taken), verified=True), now, now))
    assert life.outlook is not None
    told = life.outlook.extended(holding, life.policy, control_at(now, life.control, UTC), now + HOUR)
    assert (told is not None) is is_told


def test_an_outlook_ends_when_something_becomes_due():
    life = new_life(1.8)
    midnight = START + 2 * DAY
    assert life.outlook.next_due_at == midnight
    taken = point(len(life.points), midnight)
    holding = Holding(replace(incremental(life.points[-1], taken), verified=True), midnight, midnight)
    assert (
        life.outlook.extended(holding, life.policy, control_at(midnight, life.control, UTC), midnight) is None
    )


@pytest.mark.parametrize(
    "plain", [None, {}, [], "x", {"made_at": 1, "next_due_at": None, "highest": 1, "ends": []}]
)
def test_what_is_no_outlook_is_taken_for_none(plain):
    assert outlook_from_plain(plain) is None
