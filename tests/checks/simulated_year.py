"""A year of a chain under the guide's own settings: 35,040 incrementals, and all that may befall an agent in a year.

    1 January 2026      00:00 local: the base; an incremental every quarter of an hour from then on
    8 to 16 February    the agent is off, from Sunday 23:50 to Monday 12:00 of the week after next
    10 May to 10 June   the source is off
    14 July             from 10:00 to 16:00 the machine's clock is a year ahead: stamps, and the agent's own time
    20 August           the incremental of 12:00 is stamped 1999, that of 13:00 is stamped 2099
    21 August           the incremental of 00:00, the first of its day, is stamped 1999
    31 January 2027     the last of the 35,040

Every number below was worked out by hand. A day has 96 quarters, so where nothing happened the last incremental of the
d-th day of the year is number 96 d - 1 (number 0 being the base's own point, at the first midnight). In Europe/Berlin
29 March has 92 quarters and 25 October 100; in America/New_York 8 March has 92 and 1 November 100. The days named here
lie where both zones agree again, but for three weeks of March.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from policies.clock_watch import ClockReading, ClockWatch
from policies.points import PointId, Span
from policies.reach import reachable
from tests.checks.life import Life, base_of, incremental, point

QUARTER = timedelta(minutes=15)
COUNT = 35_040
A_YEAR = timedelta(days=365)
VOLUME = "D_VOL-b001"


def local(zone: ZoneInfo, text: str) -> datetime:
    """Read a local time of 2026 or later."""
    return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC)


@dataclass(frozen=True)
class Kept:
    """The files that the guide's rules leave on a day, besides the base."""

    incrementals: tuple[int, int]
    dailies: tuple[int, ...]
    weeklies: tuple[int, ...]
    monthlies: tuple[int, ...]

    def names(self) -> set[str]:
        first, last = self.incrementals
        return {
            f"{VOLUME}.spf",
            *(f"{VOLUME}-i{number:03d}.spi" for number in range(first, last + 1)),
            *(f"{VOLUME}-i{number:03d}-cd.spi" for number in self.dailies),
            *(f"{VOLUME}-i{number:03d}-cw.spi" for number in self.weeklies),
            *(f"{VOLUME}-i{number:03d}-cm.spi" for number in self.monthlies),
        }


# Sunday, 1 February, after the work of midnight. Saturday 31 January ended a day, a week and a month at once.
#
# Incrementals stay 7 days after the midnight at which their daily was made. That of Saturday the 24th was made at
# 00:00 on the 25th, and its seven days end this very moment: the 25th to the 31st stay. The 25th is the 25th day: its
# first is 96 x 24 = 2304, the last of the 31st is 96 x 31 - 1 = 2975.
# Dailies stay 15 days after their weekly. Weeks ended on Saturdays 3, 10, 17, 24, 31 January. The weekly of the 10th
# was made on the 11th: 15 days ended on the 26th. That of the 17th was made on the 18th and its dailies stay until
# 2 February. So the dailies of 11 to 31 January stay, 96 d - 1 each.
# Weeklies stay 90 days after the monthly, which was made just now: all five stay.
FIRST_OF_FEBRUARY = Kept(
    incrementals=(2304, 2975),
    dailies=(
        *(1055, 1151, 1247, 1343, 1439, 1535, 1631),  # 11 to 17 January
        *(1727, 1823, 1919, 2015, 2111, 2207, 2303),  # 18 to 24
        *(2399, 2495, 2591, 2687, 2783, 2879, 2975),  # 25 to 31
    ),
    weeklies=(287, 959, 1631, 2303, 2975),
    monthlies=(2975,),
)

# Tuesday, 24 February, after the work of midnight. The agent was off from Sunday the 8th, 23:50, to Monday the 16th,
# 12:00. Then it saw all that had landed, and made up for the dailies of the 8th to the 15th, and for the weekly of the
# 8th to the 14th, one by one, all at 12:00.
#
# Incrementals of days whose dailies were made at 12:00 on the 16th went at 12:00 on the 23rd. The daily of the 16th was
# made on the 17th at 00:00: its seven days end this moment. So the 17th (48th day, from 96 x 47 = 4512) to the 23rd
# (54th day, to 96 x 54 - 1 = 5183) stay.
# Dailies: the weekly of the 1st to the 7th was made on the 8th at 00:00; 15 days ended on the 23rd. That of the 8th to
# the 14th was made on the 16th at 12:00: its dailies stay until 3 March, 12:00. So the 8th (39th day) to the 23rd stay.
# Weeklies: January's stay until 2 May. February's weeks end on Saturdays the 7th, 14th, 21st.
TWENTY_FOURTH_OF_FEBRUARY = Kept(
    incrementals=(4512, 5183),
    dailies=(
        *(3743, 3839, 3935, 4031, 4127, 4223, 4319),  # 8 to 14 February
        *(4415, 4511, 4607, 4703, 4799, 4895, 4991),  # 15 to 21
        *(5087, 5183),  # 22 and 23
    ),
    weeklies=(287, 959, 1631, 2303, 2975, 3647, 4319, 4991),
    monthlies=(2975,),
)

# Tuesday, 16 June, after the work of midnight. The source was off from 10 May, 00:00, to 10 June, 00:00.
#
# 31 March is the 90th day and four quarters are missing by then: its last is 96 x 90 - 1 - 4 = 8635. 30 April: 30 days
# more, 8635 + 2880 = 11515. 9 May: 9 days more, 11515 + 864 = 12379. The next, 12380, is that of 10 June, 00:00, so
# that June's day d ends with 12379 + 96 (d - 9).
# Incrementals: those of 9 May went on 17 May. Those of 10 June have a daily since the 11th, and stay until the 18th:
# all of the 10th to the 15th stay, to 12379 + 96 x 6 = 12955.
# Dailies: the week of 3 to 9 May was rolled up on the 10th, its dailies went on the 25th. That of 7 to 13 June, which
# has points from the 10th on, was rolled up on the 14th: its dailies stay until the 29th. Then the 14th and the 15th.
# Weeks and days without points made no files. May, which has points up to the 9th, was rolled up on 1 June.
# Weeklies stay 90 days (of 24 hours) after their monthly. January's was made on 1 February: they went on 2 May.
# February's on 1 March: they went on 30 May. March's on 1 April: until 30 June. So: 1 to 7 March (66th day, 6335), then
# Saturdays 14, 21, 28 March and the month's end on 31 March; 4, 11, 18, 25, 30 April; 2, 9 May; 13 June.
# The three Saturdays in March: 96 x 73 - 1 = 7007, 7679, 8351 in Berlin, where the short day is the 29th; 4 less in New
# York, where it was the 8th.
SIXTEENTH_OF_JUNE = Kept(
    incrementals=(12380, 12955),
    dailies=(12475, 12571, 12667, 12763, 12859, 12955),
    weeklies=(
        *(6335, 7007, 7679, 8351, 8635),  # March
        *(9019, 9691, 10363, 11035, 11515),  # April
        *(11707, 12379),  # May
        12763,  # 13 June
    ),
    monthlies=(2975, 5663, 8635, 11515, 12379),
)
SIXTEENTH_OF_JUNE_IN_NEW_YORK = Kept(
    incrementals=SIXTEENTH_OF_JUNE.incrementals,
    dailies=SIXTEENTH_OF_JUNE.dailies,
    weeklies=(6335, 7003, 7675, 8347, 8635, 9019, 9691, 10363, 11035, 11515, 11707, 12379, 12763),
    monthlies=SIXTEENTH_OF_JUNE.monthlies,
)

# Tuesday, 25 August, after the work of midnight. The clock's year ahead in July left nothing behind: while it was
# ahead nothing was rolled up or removed, and what had been captured then fell to 14 July once time was right again.
#
# 30 June ends with 12379 + 96 x 21 = 14395, 31 July with 14395 + 96 x 31 = 17371, August's day d with 17371 + 96 d.
# Incrementals: the daily of the 17th was made on the 18th: its seven days end this moment. The 18th (from 17371 + 96 x
# 17 + 1 = 19004) to the 24th (17371 + 96 x 24 = 19675) stay.
# The stamps of the 20th at noon change nothing: between their neighbours they lie on the 20th whatever they say. That
# of the 21st at 00:00, number 19292, says 1999, and so it is taken to lie with its predecessor, on the 20th, whose
# daily (19291) had been made just before: the 20th was rolled up again, as 19292, and both are dailies.
# Dailies: the week of the 2nd to the 8th was rolled up on the 9th, its dailies went on the 24th. That of the 9th to
# the 15th was rolled up on the 16th: until the 31st. So the 9th (18235) to the 24th stay, and 19292.
# Weeklies: April's went on 30 July, 90 days after 1 May. May's stay until 30 August, 90 days after 1 June. Saturdays
# 13, 20, 27 June and the 30th; 4, 11, 18, 25 July and the 31st; 1, 8, 15, 22 August.
TWENTY_FIFTH_OF_AUGUST = Kept(
    incrementals=(19004, 19675),
    dailies=(
        *(18235, 18331, 18427, 18523, 18619, 18715, 18811),  # 9 to 15 August
        *(18907, 19003, 19099, 19195, 19291, 19292, 19387, 19483),  # 16 to 22, the 20th twice
        *(19579, 19675),  # 23 and 24
    ),
    weeklies=(
        *(11707, 12379),  # May
        *(12763, 13435, 14107, 14395),  # June
        *(14779, 15451, 16123, 16795, 17371),  # July
        *(17467, 18139, 18811, 19483),  # August
    ),
    monthlies=(2975, 5663, 8635, 11515, 12379, 14395, 17371),
)


def named_days(zone: ZoneInfo) -> dict[date, Kept]:
    in_june = SIXTEENTH_OF_JUNE_IN_NEW_YORK if "New_York" in zone.key else SIXTEENTH_OF_JUNE
    return {
        date(2026, 2, 1): FIRST_OF_FEBRUARY,
        date(2026, 2, 24): TWENTY_FOURTH_OF_FEBRUARY,
        date(2026, 6, 16): in_june,
        date(2026, 8, 25): TWENTY_FIFTH_OF_AUGUST,
    }


@dataclass
class Year:
    """The year as it truly passes, and what the agent makes of it."""

    zone: ZoneInfo
    life: Life = field(init=False)
    watch: ClockWatch = field(default_factory=ClockWatch)
    taken: list[tuple[datetime, PointId]] = field(default_factory=list)
    last_of_day: dict[date, PointId] = field(default_factory=dict)
    placed: int = 0
    days_found: list[date] = field(default_factory=list)
    nights: int = 0
    events: int = 0

    def __post_init__(self) -> None:
        self.life = Life(self.zone)
        self.start = self.at("2026-01-01T00:00")
        self.agent_off = (self.at("2026-02-08T23:50"), self.at("2026-02-16T12:00"))
        self.source_off = (self.at("2026-05-10T00:00"), self.at("2026-06-10T00:00"))
        self.clock_ahead = (self.at("2026-07-14T10:00"), self.at("2026-07-14T16:00"))
        self.stamps = {
            self.at("2026-08-20T12:00"): self.at("1999-01-01T00:00"),
            self.at("2026-08-20T13:00"): self.at("2099-01-01T00:00"),
            self.at("2026-08-21T00:00"): self.at("1999-01-01T00:00"),
        }

    def at(self, text: str) -> datetime:
        return local(self.zone, text)

    def shown(self, moment: datetime) -> datetime:
        """Tell what the machine's clock shows."""
        ahead = self.clock_ahead[0] <= moment < self.clock_ahead[1]
        return moment + A_YEAR if ahead else moment

    def is_off(self, moment: datetime) -> bool:
        return self.agent_off[0] <= moment < self.agent_off[1]

    def run(self, count: int = COUNT) -> None:
        """Let the year pass until so many incrementals were taken."""
        last = point(0, self.start)
        self.taken.append((self.start, last.id))
        self.life.put(base_of(last), self.start)
        unseen: list[Span] = []
        midnight = self.midnights()
        next_midnight = next(midnight)
        for number, moment in zip(range(1, count + 1), self.moments(), strict=False):
            while next_midnight <= moment:
                if not self.is_off(next_midnight):
                    self.night(next_midnight)
                next_midnight = next(midnight)
            taken = point(number, self.stamps.get(moment, self.shown(moment)))
            self.taken.append((moment, taken.id))
            unseen.append(incremental(last, taken))
            last = taken
            if not self.is_off(moment):
                self.look(moment, unseen)
                unseen.clear()

    def moments(self) -> Iterator[datetime]:
        moment = self.start + QUARTER
        while True:
            if not self.source_off[0] <= moment < self.source_off[1]:
                yield moment
            moment += QUARTER

    def midnights(self) -> Iterator[datetime]:
        day = self.start.astimezone(self.zone).date()
        while True:
            day += timedelta(days=1)
            yield self.at(f"{day}T00:00")

    def look(self, moment: datetime, spans: list[Span]) -> None:
        """Files land: each is an event of its own, but for those that were found together."""
        self.read_clocks(moment)
        now = self.shown(moment)
        for span in spans[:-1]:
            self.life.put(span, now)
            self.life.outlook = None
        self.life.land(spans[-1], now)
        self.events += len(spans)

    def read_clocks(self, moment: datetime) -> None:
        self.watch = self.watch.advanced(ClockReading(self.shown(moment), moment - self.start, "one boot"))
        freeze = self.watch.freeze()
        freezes = () if freeze is None else (freeze,)
        if freezes != self.life.freezes:
            self.life.freezes = freezes
            self.life.outlook = None

    def night(self, midnight: datetime) -> None:
        """The work of midnight, and all that must be so afterwards."""
        self.read_clocks(midnight)
        now = self.shown(midnight)
        plan = self.life.live(now)
        counted = self.life.planning_s, self.life.plans
        assert self.life.ask(now) == plan, "a second plan changes nothing"
        self.life.planning_s, self.life.plans = counted
        restorable = reachable(one.span for one in self.life.present if one.span.verified)
        today = midnight.astimezone(self.zone).date()
        for name, promised in self.promised(midnight, today):
            assert promised <= restorable, f"{name} cannot be restored on {today}"
        kept = named_days(self.zone).get(today)
        if kept is not None:
            assert self.life.names == kept.names(), difference(self.life.names, kept.names())
            self.days_found.append(today)
        self.nights += 1

    def promised(self, midnight: datetime, today: date) -> Iterator[tuple[str, set[PointId]]]:
        """What the guide promises, from when points were truly taken: by no code that is tried here."""
        seven_days = midnight - timedelta(days=7)
        recent = [(moment, known) for moment, known in self.taken[-800:] if moment >= seven_days]
        yield "a point of the last seven days", {known for _, known in recent}
        ends = self.day_ends(today)
        fifteen = today - timedelta(days=15)
        yield "a day of the last fifteen", {known for day, known in ends.items() if day >= fifteen}
        ninety = today - timedelta(days=90)
        weeks = {(day.toordinal() // 7, day.month): known for day, known in ends.items() if day >= ninety}
        yield "a week of the last ninety days", set(weeks.values())
        months = {(day.year, day.month): known for day, known in ends.items()}
        yield "a month", set(months.values())
        yield "the base", {self.taken[0][1]}

    def day_ends(self, today: date) -> dict[date, PointId]:
        """The last point of each local day before today."""
        for moment, known in self.taken[self.placed :]:
            self.last_of_day[moment.astimezone(self.zone).date()] = known
        self.placed = len(self.taken)
        return {day: known for day, known in self.last_of_day.items() if day < today}


def difference(found: set[str], wanted: set[str]) -> str:
    more, less = sorted(found - wanted), sorted(wanted - found)
    return f"kept though it should not be: {more[:12]} ({len(more)}); missing: {less[:12]} ({len(less)})"


def check_year(zone_name: str, count: int = COUNT, planning_s_max: float = 60.0) -> str:
    """Live through the year in a zone; tell what was found.

    Args:
        zone_name: the zone.
        count: how many incrementals; all of them for the whole year.
        planning_s_max: how much processor time all plans together may take.
    """
    year = Year(ZoneInfo(zone_name))
    year.run(count)
    end = year.taken[-1][0].astimezone(year.zone).date()
    assert year.days_found == [day for day in named_days(year.zone) if day <= end]
    assert year.events == count
    life = year.life
    assert life.planning_s < planning_s_max, f"{life.planning_s:.1f} s"
    return (
        f"{count:,} incrementals, {year.nights} midnights, {len(year.days_found)} named days; "
        f"{life.quick_plans:,} plans by outlook and {life.plans:,} of the whole chain in {life.planning_s:.1f} s"
    )
