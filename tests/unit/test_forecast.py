"""What a policy would do: played forward by the planner itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from policies.folder_policy import ConsolidationPolicy, FolderPolicy
from policies.forecast import USUAL_SHRINKING, Midnight, Pace, forecast, pace_of
from policies.names import Tier
from tests.checks.life import Life, base_of, incremental, point, utc

BERLIN = ZoneInfo("Europe/Berlin")
MIB = 1 << 20
PACE = Pace(4, 100 * MIB, dict.fromkeys(Tier, 0.5))


def new_life(start: datetime, hours: int) -> tuple[Life, datetime]:
    life = Life(BERLIN)
    last = point(0, start)
    life.put(base_of(last), start)
    for number in range(1, hours + 1):
        now = start + timedelta(hours=number)
        taken = point(number, now)
        life.land(incremental(last, taken, stored_bytes=number * MIB), now)
        last = taken
    return life, last.time


def files(midnight: Midnight) -> dict[str, int]:
    return {"full" if tier is None else tier.value: one.files for tier, one in midnight.tallies.items()}


def test_a_year_of_four_incrementals_a_day():
    life, now = new_life(utc("2025-12-31 23:00"), 0)
    played = list(forecast(life.facts, FolderPolicy(), now, 365, pace=PACE))
    assert [midnight.day for midnight in (played[0], played[-1])] == [date(2026, 1, 2), date(2027, 1, 1)]
    # after 2026 has ended, a Thursday: 7 days of 4; dailies of the weeks to the 19th, 26th and 31st (their weeklies
    # were made on the 20th, 27th and 1st: 15 days before the 1st is the 17th); weeklies whose monthlies were made on
    # 1 November or later, October's then (5 of them: 3, 10, 17, 24, 31), November's (7, 14, 21, 28, 30) and
    # December's (5, 12, 19, 26, 31); twelve monthlies
    assert files(played[-1]) == {"full": 1, "incremental": 28, "daily": 19, "weekly": 15, "monthly": 12}
    assert played[-1].total.files == 75
    # a point counts once: 3 of the weeklies end with a monthly, 3 of the dailies with a weekly, 7 incrementals with one
    assert played[-1].total.points == 75 - 3 - 3 - 7
    tallies = played[-1].tallies
    assert tallies[Tier.INCREMENTAL].stored_bytes == 28 * 100 * MIB
    assert tallies[Tier.DAILY].stored_bytes == 19 * 200 * MIB
    assert played[0].made == ("D_VOL-b001-i004-cd.spi",)
    assert played[6].retired == ()
    assert played[7].retired == tuple(f"D_VOL-b001-i{number:03d}.spi" for number in (1, 2, 3, 4))


def test_another_policy_another_year():
    life, now = new_life(utc("2025-12-31 23:00"), 0)
    policy = FolderPolicy(
        consolidation=ConsolidationPolicy(rolling=True, rolling_after_months=2, rolling_yearly=False)
    )
    policy = replace(policy, retention=replace(policy.retention, expire_monthlies=True))
    played = list(forecast(life.facts, policy, now, 365, pace=replace(PACE, per_day=1)))
    # October is two months old on 1 January, 00:00, and was rolled up with all before it just now. It, and the rolling
    # image up to September, stay for seven days more.
    assert files(played[-1])["rolling"] == 2
    assert files(played[-1])["monthly"] == 3
    assert files(played[-2])["rolling"] == 1
    assert files(played[-2])["monthly"] == 2
    off = replace(FolderPolicy(), consolidation=ConsolidationPolicy(enabled=False))
    *_, last = forecast(life.facts, off, now, 30, pace=PACE)
    assert files(last) == {"full": 1, "incremental": 120}


def test_the_pace_is_that_of_the_last_two_weeks():
    life, now = new_life(utc("2026-02-28 23:00"), 24 * 20)
    pace = pace_of(life.facts, now)
    assert pace.per_day == 24
    kept = [one.span.stored_bytes for one in life.present if one.tier is Tier.INCREMENTAL and one.span.start]
    assert pace.incremental_bytes == round(sum(kept) / len(kept))
    assert abs(pace.shrinking[Tier.DAILY] - 0.7) < 0.01, "as the images were made"
    assert pace.shrinking[Tier.ROLLING] == USUAL_SHRINKING
    first = next(forecast(life.facts, FolderPolicy(), now, 1))
    assert first.made == ("D_VOL-b001-i504-cd.spi", "D_VOL-b001-i504-cw.spi"), "a Saturday ended"


def test_what_has_no_history_stands_still():
    life, now = new_life(utc("2026-03-01 00:00"), 0)
    assert pace_of(life.facts, now).per_day == 0
    played = list(forecast(life.facts, FolderPolicy(), now, 3))
    assert [one.total.files for one in played] == [1, 1, 1]
    life.holdings.clear()
    assert [one.total.files for one in forecast(life.facts, FolderPolicy(), now, 2, pace=PACE)] == [0, 0]
