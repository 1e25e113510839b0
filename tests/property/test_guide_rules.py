"""The guide's rules as a person would work them out on a calendar, day by day, against what the planner leaves.

Nothing is disturbed here: so many incrementals a day, all good, and the agent at work every midnight; no tier stays
less long than the one below it, which would need it. What is kept then follows from dates alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from policies.calendar import MonthEnd, Weekday
from policies.folder_policy import ConsolidationPolicy, FolderPolicy, RetentionPolicy, VerificationPolicy
from tests.checks.life import Life, base_of, incremental, point

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "America/Havana"]
ONE_DAY = timedelta(days=1)


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """The moment at which a day begins: the first that shows its date."""
    moment = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo("UTC")) - timedelta(hours=30)
    while moment.astimezone(zone).date() < day:
        moment += timedelta(minutes=30)
    return moment


def ends_month(day: date, end: MonthEnd) -> bool:
    """Look whether a month ends with a day, as one does on a wall calendar."""
    if end.weekday is None:
        last_of_month = (day + ONE_DAY).month != day.month
        return day.day == end.day or (last_of_month and day.day < end.day)
    if day.weekday() != end.weekday:
        return False
    if end.week == -1:
        return (day + 7 * ONE_DAY).month != day.month
    return (day.day + 6) // 7 == end.week


def kept(
    days: list[date], last_number: dict[date, int], now: datetime, policy: FolderPolicy, zone: ZoneInfo
) -> set[str]:
    """Work out which files there are once the work of a midnight is done."""
    keep, rules = policy.retention, policy.consolidation
    names = {"D_VOL-b001.spf"}
    week: list[date] = []
    weeks_of_month: list[date] = []
    previous = 0

    def stays(made_on: date, keep_days: int) -> bool:
        return now < midnight(made_on + ONE_DAY, zone) + timedelta(days=keep_days)

    def called(of: Iterable[date], tier: str) -> set[str]:
        return {f"D_VOL-b001-i{last_number[day]:03d}{tier}.spi" for day in of}

    for day in days:
        numbers = range(previous + 1, last_number[day] + 1)
        previous = last_number[day]
        if stays(day, keep.keep_intraday_days):
            names |= {f"D_VOL-b001-i{number:03d}.spi" for number in numbers}
        week.append(day)
        month_ends = ends_month(day, rules.month_end)
        if day.weekday() == rules.week_end or month_ends:
            if stays(day, keep.keep_daily_days):
                names |= called(week, "-cd")
            weeks_of_month.append(day)
            week = []
        if month_ends:
            if stays(day, keep.keep_weekly_days):
                names |= called(weeks_of_month, "-cw")
            names |= called([day], "-cm")
            weeks_of_month = []
    return names | called(week, "-cd") | called(weeks_of_month, "-cw")


@st.composite
def policies(draw: st.DrawFn) -> FolderPolicy:
    relative = st.builds(MonthEnd, weekday=st.sampled_from(Weekday), week=st.sampled_from([1, 2, 3, 4, -1]))
    keep = sorted(draw(st.lists(st.integers(1, 40), min_size=3, max_size=3)))
    return FolderPolicy(
        VerificationPolicy(reverify=draw(st.booleans())),
        ConsolidationPolicy(
            week_end=draw(st.sampled_from(Weekday)),
            month_end=draw(st.builds(MonthEnd, st.integers(1, 31)) | relative),
        ),
        RetentionPolicy(*keep),
    )


@settings(max_examples=max(12, settings.default.max_examples // 8))
@given(
    policies(),
    st.sampled_from(ZONES),
    st.dates(date(2024, 1, 1), date(2027, 12, 31)),
    st.integers(20, 80),
    st.integers(1, 2),
)
def test_what_is_kept_follows_from_the_calendar(policy, zone_name, first, count, per_day):
    zone = ZoneInfo(zone_name)
    life = Life(zone, policy)
    last = point(0, midnight(first, zone))
    life.put(base_of(last), last.time)
    days: list[date] = []
    last_number: dict[date, int] = {}
    for day in (first + index * ONE_DAY for index in range(count)):
        begins, ends = midnight(day, zone), midnight(day + ONE_DAY, zone)
        for place in range(per_day):
            taken = point(last.number + 1, begins + (ends - begins) * ((place + 1) / (per_day + 1)))
            life.land(incremental(last, taken), taken.time)
            last = taken
        days.append(day)
        last_number[day] = last.number
        life.live(ends)
        assert life.names == kept(days, last_number, ends, policy, zone)
