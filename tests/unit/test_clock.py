"""The clocks, and how they are written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ops.clock import AcceleratedClock, FileClock, SystemClock, machine_now, parse_clock
from policies.errors import ConfigurationError


def test_the_system_clock_is_the_real_one():
    clock = parse_clock("system")
    assert clock == SystemClock()
    before = machine_now()
    assert before <= clock() <= machine_now()


def test_an_accelerated_clock_runs_fast_and_is_shared():
    clock = parse_clock("2026-03-02T06:00:00+01:00@3600")
    assert isinstance(clock, AcceleratedClock)
    assert clock.start == datetime(2026, 3, 2, 5, tzinfo=UTC)
    assert parse_clock(str(clock)) == clock
    first, real = clock(), machine_now()
    assert clock() - first <= (machine_now() - real + timedelta(seconds=1)) * 3600
    earlier = AcceleratedClock(clock.start, 3600, machine_now() - timedelta(seconds=10))
    assert timedelta(hours=10) <= earlier() - earlier.start < timedelta(hours=20)


def test_a_file_shows_what_it_says(tmp_path: Path):
    clock = FileClock(tmp_path / "now")
    clock.set(datetime(2026, 3, 2, 6, tzinfo=UTC))
    assert parse_clock(str(clock))() == datetime(2026, 3, 2, 6, tzinfo=UTC)
    clock.set(datetime(2027, 3, 2, 6, tzinfo=UTC))
    assert clock() == datetime(2027, 3, 2, 6, tzinfo=UTC)
    assert [path.name for path in tmp_path.iterdir()] == ["now"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("yesterday", "not a clock"),
        ("2026-03-02T06:00:00Z@0", "rate"),
        ("2026-03-02T06:00:00Z@-3", "rate"),
        ("2026-03-02T06:00:00Z@fast", "rate"),
        ("2026-03-02T06:00:00@60", "offset"),
        ("noon@60", "not a time"),
        ("a@b@c@d", "not a clock"),
    ],
)
def test_what_is_no_clock_is_refused(text: str, words: str):
    with pytest.raises(ConfigurationError, match=words) as caught:
        parse_clock(text)
    assert caught.value.hint


def test_a_missing_file_is_an_error_of_ours(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        FileClock(tmp_path / "nothing")()
