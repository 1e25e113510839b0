"""What the demonstration shows in a log and on a terminal."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from ops.demo_lines import PlainScreen
from ops.demo_live import LiveScreen
from ops.demo_screen import Proof, Screen, Step

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
BASE = Step(NOON, "DEMO-b001.spf", "the whole volume", "base", 50 << 20, 17 << 20, 0)
DAILY = Step(NOON, "DEMO-b001-i006-cd.spi", "6 images in one", "daily", 7 << 20, 7 << 20, 6)
GOOD = Proof(6, NOON, (BASE.name, DAILY.name), "ab" * 32, "ab" * 32, True, 0.25)
WRONG = Proof(6, NOON, (BASE.name, DAILY.name), "ab" * 32, "cd" * 32, True, 0.25)


def play(screen: Screen) -> None:
    with screen:
        screen.say("making a volume")
        screen.day("Monday 2 March 2026")
        screen.image(BASE)
        screen.say("captured", aside=True)
        screen.state(BASE.name, "landed", 0.05)
        screen.state(BASE.name, "verified", 0.5)
        screen.image(DAILY)
        screen.state(DAILY.name, "verified", 0.12)
        screen.day("Tuesday 3 March 2026")
        screen.proof(GOOD)
        screen.result(good=True, words="both points came back", seconds=12.4)


def test_a_log_has_a_line_for_each_thing_and_no_escape_codes():
    out = io.StringIO()
    play(PlainScreen(Console(file=out, width=100, highlight=False, soft_wrap=True)))
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    for words in (
        "captured   DEMO-b001.spf",
        "landed     DEMO-b001.spf",
        "verified   DEMO-b001.spf",
        "rolled up  DEMO",
    ):
        assert sum(words in line for line in lines) == 1
    assert "captured" not in [line.strip() for line in lines]  # an aside
    assert lines[-1] == "OK: both points came back (12 s)"


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_keeps_each_day(width: int):
    out = io.StringIO()
    play(LiveScreen(Console(file=out, width=width, height=30, force_terminal=True, highlight=False)))
    kept = out.getvalue()
    assert "● verified 0.5 s" in kept
    assert DAILY.name in kept
    assert "All proven" in kept


@pytest.mark.parametrize("screen_of", [PlainScreen, LiveScreen])
def test_a_wrong_restore_is_plain_to_see(screen_of: type[PlainScreen] | type[LiveScreen]):
    out = io.StringIO()
    screen = screen_of(Console(file=out, width=120, force_terminal=screen_of is LiveScreen))
    with screen:
        screen.proof(WRONG)
        screen.result(good=False, words="a restored point is not what was captured", seconds=1)
    assert not WRONG.holds
    assert WRONG.found in out.getvalue()
    assert "FAILED" in out.getvalue().upper()
