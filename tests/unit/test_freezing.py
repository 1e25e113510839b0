"""When nothing is removed because something looks wrong."""

from __future__ import annotations

from datetime import timedelta

import pytest

from policies.clock_watch import CLOCK_PROBATION, ClockReading, ClockWatch
from policies.freezing import (
    HISTORY_COUNT,
    SUSPICION,
    FreezeKind,
    judge_rebuilt,
    judge_sizes,
    judge_vanished,
)
from policies.holdings import Holding
from tests.checks.life import VOLUME_BYTES, incremental, point, utc

START = utc("2026-01-05 00:00")
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MIB = 1 << 20


@pytest.mark.parametrize(
    ("expected", "gone", "freezes"),
    [
        (100, 0, False),
        (100, 9, False),
        (100, 10, True),
        (5, 2, False),
        (5, 3, True),
        (20, 3, True),
        (0, 0, False),
    ],
)
def test_many_images_gone_at_once(expected, gone, freezes):
    names = {f"D_VOL-b001-i{number:03d}.spi": START + number * HOUR for number in range(1, gone + 1)}
    freeze = judge_vanished(expected, names)
    assert (freeze is not None) is freezes
    if freeze is not None:
        assert freeze.kind is FreezeKind.VANISHED
        assert freeze.since == START + HOUR
        assert freeze.reason == f"{gone} of {expected} images are gone, D_VOL-b001-i001.spi among them"
        assert judge_vanished(expected, dict(reversed(names.items()))) == freeze
        assert judge_vanished(expected, names | {"one-more": START}).key != freeze.key


def history(sizes: list[int], plain: list[int] | None = None) -> list[Holding]:
    """Incrementals of these sizes in MiB, an hour apart."""
    points = [point(number, START + number * HOUR) for number in range(len(sizes) + 1)]
    return [
        Holding(
            incremental(points[index], points[index + 1], stored_bytes=size * MIB),
            points[index + 1].time,
            points[index + 1].time,
            plain_bytes=None if plain is None else plain[index] * MIB,
        )
        for index, size in enumerate(sizes)
    ]


LARGE = VOLUME_BYTES // MIB // 10
USUAL = [40, 30, 60, 50] * 5


@pytest.mark.parametrize(
    ("sizes", "freezes"),
    [
        (USUAL, False),
        ([*USUAL, LARGE], True),
        ([*USUAL, LARGE, 40, 40], True),
        ([*USUAL[: HISTORY_COUNT - 1], LARGE], False),  # too little to hold it against
        ([*USUAL, 299], False),
        ([*USUAL, 1000], False),  # many times as large, yet little of the volume
        ([LARGE, *USUAL, LARGE], False),  # it has happened before
        ([*USUAL, LARGE // 2 + 1], True),
        ([*USUAL, LARGE // 2], False),
    ],
)
def test_an_incremental_that_is_far_larger_than_all_before_it(sizes, freezes):
    holdings = history(sizes)
    found = judge_sizes(reversed(holdings), holdings[-1].first_seen_at)
    assert [one.kind for one in found] == ([FreezeKind.GREW] if freezes else [])
    if found:
        assert found[0].since == START + (len(USUAL) + 1) * HOUR
        assert found[0].ends_at == found[0].since + SUSPICION
        assert judge_sizes(holdings, found[0].ends_at) == ()


PACKED = [98, 98, 98]


@pytest.mark.parametrize(
    ("stored", "plain", "freezes"),
    [
        ([30] * 15, [100] * 15, False),
        ([30] * 15 + PACKED, [100] * 18, True),
        ([30] * 15 + PACKED[:2], [100] * 17, False),
        ([30] * 15 + [98, 98, 30, 98, 98, 30], [100] * 21, False),
        ([30] * 11 + PACKED, [100] * 14, False),
        ([90] * 15 + PACKED, [100] * 18, False),  # it never compressed well
        ([30] * 15 + [9, 9, 9], [100] * 15 + [9] * 3, False),  # too small to tell
    ],
)
def test_incrementals_that_compress_no_more(stored, plain, freezes):
    holdings = history(stored, plain)
    found = judge_sizes(holdings, holdings[-1].first_seen_at)
    assert [one.kind for one in found] == ([FreezeKind.INCOMPRESSIBLE] if freezes else [])
    if found:
        assert found[0].reason.startswith("incrementals do not compress any more since D_VOL-b001-i016.spi")
    assert judge_sizes(history(stored), holdings[-1].first_seen_at) == (), (
        "where nothing tells, nothing is told"
    )


def test_more_evidence_is_another_freeze_and_less_is_not():
    holdings = history([*USUAL, LARGE, LARGE * 6])
    now = holdings[-1].first_seen_at
    (both,) = judge_sizes(holdings, now)
    (first,) = judge_sizes(holdings[:-1], now)
    assert first.key != both.key
    (last,) = judge_sizes([*holdings[:-2], holdings[-1]], now)
    assert last.key == both.key


def test_a_rebuilt_catalogue():
    freeze = judge_rebuilt(START, {"the target 'vault'", "the job 'stand-by'"})
    assert freeze is not None
    assert (freeze.kind, freeze.since) == (FreezeKind.REBUILT, START)
    assert "the job 'stand-by', the target 'vault' have not said yet" in freeze.reason
    assert judge_rebuilt(START, ()) is None


# --- the clock


def watched(*steps: tuple[float, float] | tuple[float, float, str]) -> ClockWatch:
    """Watch a clock: hours that truly passed, hours that it shows, and the boot if it is another."""
    watch = ClockWatch()
    wall, running, boot = START, timedelta(0), "a"
    watch = watch.advanced(ClockReading(wall, running, boot))
    for passed, shown, *other in steps:
        wall += shown * HOUR
        running += passed * HOUR
        if other:
            running, boot = timedelta(0), other[0]
        watch = watch.advanced(ClockReading(wall, running, boot))
    return watch


YEAR = 365 * 24.0


@pytest.mark.parametrize(
    ("steps", "trusted"),
    [
        ([(1, 1), (100, 100)], True),
        ([(1, 1.9)], True),
        ([(1, 0.1)], True),
        ([(1, 2)], False),
        ([(1, 1 + YEAR)], False),
        ([(1, 1 + YEAR), (6, 6 - YEAR)], True),
        ([(1, 1 + YEAR), (6, 6)], False),
        ([(1, 1 + YEAR), (6, 6 - YEAR / 2)], False),
        ([(1, 1 - YEAR)], False),
        ([(1, 1 - YEAR), (1, 1 + YEAR)], True),
        # it is believed once it has run steadily, by the clock that only counts
        ([(1, 1 + YEAR), (71, 71)], False),
        ([(1, 1 + YEAR), (72, 72)], True),
        ([(1, 1 + YEAR), (50, 50), (1, 25), (50, 50)], False),
        # across a restart only a clock that went back can be told
        ([(0, 5, "b")], True),
        ([(0, YEAR, "b")], True),
        ([(0, -5, "b")], False),
        ([(1, 1 + YEAR), (0, 3 - YEAR, "b")], True),
        ([(1, 1 + YEAR), (0, 3, "b")], False),
        ([(1, 1 + YEAR), (0, -2 * YEAR, "b")], False),
    ],
)
def test_a_clock_that_jumped_is_not_trusted_until_it_is_right_or_steady(steps, trusted):
    watch = watched(*steps)
    assert watch.is_trusted is trusted
    assert (watch.freeze() is None) is trusted


def test_how_a_jump_is_told():
    freeze = watched((1, 1 + YEAR)).freeze()
    assert freeze is not None
    assert freeze.reason == "the system clock was set forward by 365 days"
    assert freeze.ends == f"once it is right again, or has run steadily for {CLOCK_PROBATION.days} days"
    back = watched((1, 1 - 5)).freeze()
    assert back is not None
    assert back.reason == "the system clock was set back by 5 hours"
    assert watched((1, 1 - 5), (1, 1)).freeze() == back
