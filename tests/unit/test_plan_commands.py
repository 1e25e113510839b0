"""What is due and why, what keeps images, what people wish: from the command line, on a real catalogue."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from rich.console import Console
from sqlalchemy import select

from ops.forecast_picture import Sheet, draw_forecast
from policies.folder_policy import FolderPolicy
from policies.forecast import forecast, tallies_of
from policies.lifecycle import plan_chain
from storage.catalog import Attempt, Chain, Event, EventKind, WorkKind
from storage.catalog.chains import AT_ONCE, chains_due
from storage.catalog.folders import find_folder
from storage.ledger import read_ledger
from tests.catalogued import Office
from tests.checks.life import Life, base_of, incremental, point, utc

BERLIN = ZoneInfo("Europe/Berlin")
START = utc("2026-10-10 04:00")
END = utc("2026-11-22 15:00")


def lived(until: datetime = END, every: timedelta = timedelta(hours=8)) -> tuple[Life, datetime]:
    """A chain that has lived by its plans for weeks, and then was left alone for some hours."""
    life = Life(BERLIN)
    last = point(0, START)
    life.put(base_of(last), START)
    now, number = START, 0
    while now < until:
        now, number = now + every, number + 1
        taken = point(number, now)
        life.land(incremental(last, taken, stored_bytes=(number % 7 + 1) << 22), now)
        last = taken
    later = now + timedelta(hours=13)
    life.put(incremental(last, point(number + 1, later)), later, verified=False)
    return life, later


@pytest.fixture(scope="module")
def life() -> tuple[Life, datetime]:
    return lived()


@pytest.fixture
def office(quick_path: Path, life: tuple[Life, datetime]) -> Office:
    made = Office(quick_path / "an agent's plâce")
    made.manage(START)
    made.fill(life[0], life[1])
    return made


def first_going(life: tuple[Life, datetime]) -> str:
    return plan_chain(life[0].facts, FolderPolicy(), life[1]).retirements[0].name


def files(lines: list[dict[str, object]], kind: str) -> list[object]:
    return [line["file"] for line in lines if line["kind"] == kind]


def test_plan_tells_what_the_planner_says(office, life):
    chain, now = life
    expected = plan_chain(chain.facts, FolderPolicy(), now)
    told = office.did("plan", office.folder)
    assert files(told, "verify") == [one.name for one in expected.verifications]
    assert files(told, "consolidate") == [one.name for one in expected.consolidations]
    assert files(told, "retire") == [one.name for one in expected.retirements]
    assert expected.consolidations
    assert expected.retirements
    last = told[-1]
    assert (last["kind"], last["status"]) == ("next", "due")
    assert expected.next_due_at is not None
    assert last["next_due_at"] == expected.next_due_at.isoformat()
    assert office.did("plan") == told
    assert office.did("plan", office.folder, "--volume", "D_VOL") == told
    assert "D_VOL" in office.do("plan", office.folder, "--volume", "E_VOL").errors


def test_plan_in_words_fits_a_screen_and_says_all_if_asked(office, life):
    retired = [one.name for one in plan_chain(life[0].facts, FolderPolicy(), life[1]).retirements]
    short, whole = office.do("plan").output, office.do("plan", "--all").output
    assert all(name in whole for name in retired)
    assert "--all shows them" in short
    assert len(short.splitlines()) < len(whole.splitlines())
    assert "next: 2026-11-" in short


def test_what_keeps_the_daily_work_from_being_done_is_said(office):
    office.did("settings", "set", "control.enabled=off")
    told = office.did("plan")[-1]
    assert "control.enabled" in told["reason"]
    assert files(office.did("plan"), "consolidate") == []
    office.did("start")
    assert files(office.did("plan"), "consolidate") != []
    office.did("settings", "reset", "--all")
    office.did("folder", "set", office.folder, "consolidation.enabled=off")
    assert "consolidation.enabled" in office.did("plan")[-1]["reason"]


def test_start_marks_every_chain_and_makes_it_due(office, life):
    done = office.did("start", office.folder)
    assert [(one["path"], one["chains"]) for one in done] == [(str(office.folder), 1)]
    catalog = office.catalog()
    with catalog.read() as session:
        chain = session.scalars(select(Chain)).one()
        assert (chain.started_at, chain.next_due_at) == (life[1], AT_ONCE)
        assert chain.revision > 0
        assert session.scalars(select(Event).where(Event.kind == EventKind.STARTED)).one()
    catalog.close()


@pytest.mark.parametrize(
    "words",
    [
        ("folder", "set", "FOLDER", "retention.keep_daily_days=30"),
        ("folder", "set", "FOLDER", "--time-zone", "America/New_York"),
        ("settings", "set", "retention.keep_daily_days=30"),
        ("start",),
        ("freeze", "FOLDER", "--reason", "audit"),
        ("hold", "FOLDER/BASE", "--reason", "audit"),
    ],
)
def test_what_was_said_by_a_clock_that_was_ahead_is_due_at_once(office, life, words):
    catalog = office.catalog()
    with catalog.write() as session:
        session.scalars(select(Chain)).one().next_due_at = life[1] + timedelta(hours=12)
    office.clock.set(life[1] + timedelta(hours=36))  # no agent runs; it is put right before one does
    base = str(office.folder / "D_VOL-b001.spf")
    names = {"FOLDER": str(office.folder), "FOLDER/BASE": base}
    office.did(*(names.get(word, word) for word in words))
    with catalog.read() as session:
        assert len(chains_due(session, life[1])) == 1
    catalog.close()


def test_what_was_set_aside_or_dropped_waits(office, life):
    name = files(office.did("plan"), "consolidate")[0]
    catalog = office.catalog()
    with catalog.write() as session:
        folder = find_folder(session, office.folder)
        assert folder is not None
        row = Attempt(
            kind=WorkKind.CONSOLIDATE,
            subject="a subject",
            engine_version=version("rollforward"),
            started_at=life[1],
            reason="the disk is full",
            quarantined=True,
            folder_id=folder.id,
            title=f"{name} in {office.folder}",
        )
        session.add(row)
    catalog.close()
    told = office.did("plan")
    assert name not in files(told, "consolidate")
    waits = [one["reason"] for one in told if one["kind"] == "wait" and one["file"] == name]
    assert len(waits) == 1
    assert "the disk is full" in waits[0]


def test_why_tells_of_each_image_what_the_planner_says(office, life):
    chain, now = life
    plan = plan_chain(chain.facts, FolderPolicy(), now)
    assert len({fate.ground for fate in plan.fates}) > 3
    one_of_each = {fate.ground: fate for fate in plan.fates}
    for fate in one_of_each.values():
        told = office.did("why", office.folder / fate.holding.name)[0]
        assert (told["stays"], told["ground"]) == (fate.stays, fate.ground.value)
        assert told["due_at"] == (None if fate.due_at is None else fate.due_at.isoformat())
        assert told["covered_by"] == (None if fate.cover is None else fate.cover.name)
        words = office.do("why", office.folder / fate.holding.name).output
        assert fate.reason in words
        assert ("stays: " if fate.stays else "goes: ") in words


def test_why_tells_of_bad_images_gone_ones_and_strangers(quick_path, life):
    chain = Life(BERLIN, holdings=dict(life[0].holdings))
    newest = max(chain.holdings.values(), key=lambda one: one.span.end.number).name
    chain.judge_bad(newest, "a digest differs (at byte 5)")
    lost = first_going(life)
    chain.lose(lost)
    office = Office(quick_path / "office")
    office.manage(START)
    office.fill(chain, life[1])
    assert "a digest differs (at byte 5)" in office.do("why", office.folder / newest).output
    assert "nobody of ours took it away" in office.do("why", office.folder / lost).output
    unknown = office.do("why", office.folder / "D_VOL-b009.spf")
    assert unknown.code == 2
    assert "nothing is known of it" in unknown.errors
    assert office.do("why", office.folder / "letter.txt").code == 2
    assert office.do("why", "/elsewhere/D_VOL-b001.spf").code == 2


def test_a_held_file_stays_until_it_is_released(office, life):
    name = first_going(life)
    held = office.did("hold", office.folder / name, "--reason", "Prüfung 2026")[0]
    assert (held["held"], held["reason"], held["until"]) == (name, "Prüfung 2026", None)
    assert name not in files(office.did("plan"), "retire")
    told = office.did("why", office.folder / name)[0]
    assert told["ground"] == "held"
    assert any("Prüfung 2026" in need for need in told["needed_by"])
    assert [hold.name for hold in read_ledger(office.folder).state.holds] == [name]
    assert [one["hold"] for one in office.did("holds", office.folder)] == [held["hold"]]
    assert "Prüfung 2026" in office.do("holds").output
    office.did("release", office.folder / name)
    assert office.did("holds") == []
    assert name in files(office.did("plan"), "retire")
    assert read_ledger(office.folder).state.holds == []
    assert office.do("release", str(held["hold"])).code == 2
    assert "there is no hold 'letter'" in office.do("release", "letter").errors
    for command in ("hold", "why"):
        assert "is a folder, not an image" in office.do(command, office.folder).errors


def test_a_hold_ends_when_its_time_has_come(office, life):
    name, now = first_going(life), life[1]
    office.did("hold", office.folder / name, "--until", (now + timedelta(hours=1)).isoformat())
    assert name not in files(office.did("plan"), "retire")
    office.clock.set(now + timedelta(hours=1))
    assert name in files(office.did("plan"), "retire")
    assert office.did("holds")[0]["status"] == "over"
    over = office.do("hold", office.folder / name, "--until", "2020-01-01")
    assert over.code == 2
    assert "is over" in over.errors


def test_a_held_point_stays_restorable(office, life):
    chain, _ = life
    going = next(
        one
        for one in plan_chain(chain.facts, FolderPolicy(), life[1]).retirements
        if one.tier.value == "incremental"
    )
    number = chain.holdings[going.name].span.end.number
    held = office.did("hold", office.folder, "--point", str(number), "--volume", "D_VOL")[0]
    assert held["held"] == f"point {number} of D_VOL b001"
    retired = files(office.did("plan"), "retire")
    assert going.name not in retired or chain.holdings[going.covered_by].span.end.number == number
    office.did("release", str(held["hold"]))
    wrong = office.do("hold", office.folder, "--point", "99999")
    assert wrong.code == 2
    assert "no point 99999" in wrong.errors
    assert office.do("hold", office.folder / "D_VOL-b009.spf").code == 2


def test_a_frozen_folder_loses_nothing(office):
    assert files(office.did("plan"), "retire")
    assert office.did("freeze", office.folder, "--reason", "audit")[0]["status"] == "frozen"
    assert "already" in office.did("freeze", office.folder)[0]["reason"]
    told = office.did("plan")
    assert files(told, "retire") == []
    assert files(told, "consolidate")
    assert [one["freeze"] for one in told if one["kind"] == "freeze"] == ["person"]
    assert "audit" in office.do("plan").output
    office.did("unfreeze", office.folder)
    assert files(office.did("plan"), "retire")
    assert office.did("unfreeze", office.folder)[0]["status"] == "not frozen"


def test_a_freeze_ends_when_its_time_has_come(office, life):
    now = life[1]
    office.did("freeze", office.folder, "--until", (now + timedelta(hours=1)).isoformat())
    assert files(office.did("plan"), "retire") == []
    office.clock.set(now + timedelta(hours=1))
    assert files(office.did("plan"), "retire")


def test_days_played_forward_are_those_of_the_forecast(office, life):
    chain, now = life
    told = office.did("plan", "--days", "40")
    expected = list(forecast(chain.facts, FolderPolicy(), now, 40))
    assert [one["day"] for one in told] == [one.day.isoformat() for one in expected]
    last = expected[-1].tallies
    assert told[-1]["tiers"] == {
        "full" if tier is None else tier.value: {
            "files": tally.files,
            "stored_bytes": tally.stored_bytes,
            "points": tally.points,
        }
        for tier, tally in last.items()
    }
    assert told[0]["made"] == list(expected[0].made)
    assert office.did("plan")[-1]["status"] == "due"


@pytest.mark.parametrize("width", [80, 120])
def test_the_picture_of_days_to_come_fits_its_screen(life, width):
    chain, now = life
    played = list(forecast(chain.facts, FolderPolicy(), now, 200))
    sheets = [Sheet(now.date(), tallies_of(chain.holdings.values()))]
    sheets += [Sheet(one.day, one.tallies) for one in played]
    console = Console(width=width, record=True, file=io.StringIO(), highlight=False, emoji=False)
    draw_forecast(sheets, console)
    text = console.export_text()
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert [line for line in lines if line in ("bytes", "files", "points")] == ["bytes", "files", "points"]
    assert sum("┤" in line or "│" in line for line in lines) == 3 * 7
    total = re.search(r"^  all +\d+", text, re.MULTILINE)
    assert total is not None
    for word in ("incremental", "daily", "weekly", "monthly", "base, full"):
        assert word in text


def test_pictures_of_almost_nothing(capsys):
    life = Life(BERLIN)
    life.put(base_of(point(0, START)), START)
    sheets = [
        Sheet(START.date(), {}),
        Sheet(START.date() + timedelta(days=1), tallies_of(life.holdings.values())),
    ]
    draw_forecast(sheets, Console(width=80, highlight=False, emoji=False))
    assert "base, full" in capsys.readouterr().out


def test_a_folder_without_images_has_nothing_to_plan(quick_path):
    office = Office(quick_path / "office")
    office.clock.set(datetime(2026, 3, 2, tzinfo=UTC))
    assert "folder add" in office.do("plan").output
    assert "folder add" in office.do("start").output
    office.manage(datetime(2026, 3, 2, tzinfo=UTC))
    assert "No images" in office.do("plan").output
    assert "No images" in office.do("plan", "--days", "3").output
    assert office.did("plan") == []
    assert "Nothing is held" in office.do("holds").output


def test_a_changed_policy_changes_the_plan_and_the_year(office):
    before = files(office.did("plan"), "retire")
    office.did("settings", "set", "retention.keep_intraday_days=30", "retention.keep_daily_days=60")
    after = files(office.did("plan"), "retire")
    assert set(after) < set(before)
    told = office.did("plan", "--days", "30")[-1]["tiers"]["incremental"]["files"]
    office.did("settings", "reset", "--all")
    assert office.did("plan", "--days", "30")[-1]["tiers"]["incremental"]["files"] < told
