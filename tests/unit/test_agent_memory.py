"""Settings, clocks, freezes, troubles, dropped work and pruned events in the catalogue."""

from __future__ import annotations

import dataclasses
from datetime import date, timedelta
from pathlib import Path

import pytest

from policies.clock_watch import ClockReading, ClockWatch
from policies.errors import ConfigurationError
from policies.freezing import Freeze, FreezeKind
from policies.notices import Trouble, TroubleKind, TroubleRecord
from storage.catalog import Attempt, Catalog, Chain, EventKind, Folder, WorkKind
from storage.catalog.agents import (
    agent_of,
    agent_policy,
    clock_watch,
    last_summary_day,
    set_agent_settings,
    set_clock_watch,
    set_summary_day,
)
from storage.catalog.attempts import (
    Admission,
    Moment,
    Work,
    attempts,
    begin_attempt,
    drop_attempt,
    end_attempt,
    fail_attempt,
    retry_attempt,
)
from storage.catalog.events import (
    day_summaries,
    events_after,
    events_between,
    events_of,
    prune_events,
    record_event,
)
from storage.catalog.folders import folder_policy, remove_folder, set_folder_settings
from storage.catalog.freezes import Scope, freezes_of_chain, set_freezes, stored_freezes, waive, waived_keys
from storage.catalog.notices import set_trouble_records, trouble_records
from tests.unit.shelf import DAY, ME, MINUTE, NOON, put_chain

VANISHED = Freeze(FreezeKind.VANISHED, "vanished 12", NOON, "many are gone", "once they are back")
CLOCK = Freeze(FreezeKind.CLOCK, "clock 1", NOON, "it jumped", "soon", NOON + DAY)
WORK = Work(WorkKind.VERIFY, "x", "1", title="X of /images")


def revision(catalog: Catalog, chain_id: int) -> int:
    with catalog.read() as session:
        return session.get_one(Chain, chain_id).revision


# --- settings


def test_a_folder_goes_by_its_own_settings_over_the_agents(catalog: Catalog):
    folder_id, chain_id = put_chain(catalog)
    before = revision(catalog, chain_id)
    with catalog.write() as session:
        set_agent_settings(session, {"retention": {"keep_daily_days": 20, "keep_weekly_days": 50}}, now=NOON)
        folder = session.get_one(Folder, folder_id)
        set_folder_settings(session, folder, {"retention": {"keep_daily_days": 30}})
    assert revision(catalog, chain_id) == before + 2
    with catalog.write() as session:
        folder = session.get_one(Folder, folder_id)
        kept = folder_policy(session, folder).retention
        assert (kept.keep_intraday_days, kept.keep_daily_days, kept.keep_weekly_days) == (7, 30, 50)
        assert agent_policy(session).folders.retention.keep_daily_days == 20
        assert (folder.settings_revision, agent_of(session, now=NOON).settings_revision) == (1, 1)
        with pytest.raises(ConfigurationError, match="keep_daily_days cannot be 0"):
            set_folder_settings(session, folder, {"retention": {"keep_daily_days": 0}})
        with pytest.raises(ConfigurationError, match="no setting"):
            set_agent_settings(session, {"retention": {"keep_hourly_days": 1}}, now=NOON)
    with catalog.read() as session:
        assert folder_policy(session, session.get_one(Folder, folder_id)).retention.keep_daily_days == 30


def test_an_agent_is_made_once_and_remembers_its_clock(catalog: Catalog):
    watch = ClockWatch(ClockReading(NOON, timedelta(hours=5), "boot"), -DAY, NOON, timedelta(minutes=3))
    with catalog.write() as session:
        assert clock_watch(session) == ClockWatch()
        uid = agent_of(session, now=NOON).uid
        assert agent_of(session, now=NOON + DAY, uid="f" * 32).uid == uid
        set_clock_watch(session, watch, now=NOON)
        assert last_summary_day(session) is None
        set_summary_day(session, date(2026, 3, 1), now=NOON)
    with catalog.read() as session:
        assert clock_watch(session) == watch
        assert last_summary_day(session) == date(2026, 3, 1)


def test_a_folder_that_is_removed_leaves_its_history(catalog: Catalog):
    folder_id, chain_id = put_chain(catalog)
    with catalog.write() as session:
        waive(session, Scope(folder_id), "x", "ann", now=NOON)
        remove_folder(session, session.get_one(Folder, folder_id), now=NOON, machine_now=NOON)
    with catalog.read() as session:
        assert session.get(Chain, chain_id) is None
        assert waived_keys(session, folder_id) == frozenset()
        assert EventKind.FOLDER_REMOVED in {event.kind for event in events_after(session, 0)}


# --- freezes


def test_a_freeze_begins_once_and_ends(catalog: Catalog):
    folder_id, chain_id = put_chain(catalog)
    scope, both = Scope(folder_id, chain_id), {FreezeKind.VANISHED, FreezeKind.GREW}
    with catalog.write() as session:
        assert set_freezes(session, scope, [VANISHED], judged=both, now=NOON).begun == (VANISHED,)
        again = dataclasses.replace(VANISHED, since=NOON + DAY, reason="more are gone")
        assert set_freezes(session, scope, [again], judged=both, now=NOON).begun == ()
        assert set_freezes(session, scope, [], judged={FreezeKind.BROKEN}, now=NOON).ended == ()
    with catalog.read() as session:
        [freeze] = freezes_of_chain(session, session.get_one(Chain, chain_id), NOON)
        assert (freeze.since, freeze.reason) == (NOON, "more are gone")
    with catalog.write() as session:
        assert [freeze.key for freeze in set_freezes(session, scope, [], judged=both, now=NOON).ended] == [
            "vanished 12"
        ]
        assert stored_freezes(session) == []


def test_a_chain_is_under_its_own_freezes_its_folders_and_those_of_all(catalog: Catalog):
    folder_id, chain_id = put_chain(catalog)
    other, _ = put_chain(catalog, Path("/others"))
    kinds = set(FreezeKind)
    with catalog.write() as session:
        set_freezes(session, Scope(), [CLOCK], judged=kinds, now=NOON)
        set_freezes(
            session, Scope(other), [dataclasses.replace(VANISHED, key="other")], judged=kinds, now=NOON
        )
        set_freezes(session, Scope(folder_id), [VANISHED], judged=kinds, now=NOON)
    before = revision(catalog, chain_id)
    with catalog.write() as session:
        chain = session.get_one(Chain, chain_id)
        assert {freeze.key for freeze in freezes_of_chain(session, chain, NOON)} == {CLOCK.key, VANISHED.key}
        assert [freeze.key for freeze in freezes_of_chain(session, chain, NOON + DAY)] == [VANISHED.key]
        waive(session, Scope(), CLOCK.key, "ann", now=NOON)
        waive(session, Scope(folder_id), VANISHED.key, "ann", now=NOON)
        waive(session, Scope(folder_id), VANISHED.key, "bob", now=NOON)
        assert waived_keys(session, folder_id) == {CLOCK.key, VANISHED.key}
        assert waived_keys(session, other) == {CLOCK.key}
    assert revision(catalog, chain_id) == before + 2


# --- troubles


def test_troubles_are_kept_as_they_were_judged(catalog: Catalog):
    one = TroubleRecord(Trouble(TroubleKind.DAMAGED, "a", "/images", "A", "bad", "look"), NOON)
    two = TroubleRecord(
        Trouble(TroubleKind.LOW_SPACE, "b", "/images", "", "full"), NOON, True, NOON, NOON + MINUTE, 3
    )
    with catalog.write() as session:
        set_trouble_records(session, [two, one])
    with catalog.write() as session:
        assert trouble_records(session) == (one, two)
        set_trouble_records(session, [dataclasses.replace(two, is_open=False)])
    with catalog.read() as session:
        assert trouble_records(session) == (dataclasses.replace(two, is_open=False),)


# --- dropped work


def test_what_a_person_drops_stays_dropped_until_it_is_retried(catalog: Catalog):
    moment = Moment(NOON, NOON, MINUTE, ME)
    with catalog.write() as session:
        begun = begin_attempt(session, WORK, moment)
        fail_attempt(session, begun.attempt_id, moment, "no")
        row = drop_attempt(session, begun.attempt_id, "ann")
        assert row is not None
        assert drop_attempt(session, 99, "ann") is None
    with catalog.write() as session:
        for work in (WORK, dataclasses.replace(WORK, engine_version="2")):
            held = begin_attempt(session, work, Moment(NOON + DAY, NOON, MINUTE, ME))
            assert held.admission is Admission.DROPPED
            assert "ann" in held.reason
        assert [(row.title, row.dropped_by) for row in attempts(session)] == [("X of /images", "ann")]
        assert retry_attempt(session, begun.attempt_id) is not None
        assert retry_attempt(session, 99) is None
    with catalog.write() as session:
        assert begin_attempt(session, WORK, moment).admission is Admission.BEGUN


def test_what_is_dropped_while_it_runs_stays_dropped_when_it_ends_well(catalog: Catalog):
    moment = Moment(NOON, NOON, MINUTE, ME)
    with catalog.write() as session:
        begun = begin_attempt(session, WORK, moment)
        drop_attempt(session, begun.attempt_id, "ann")
        assert end_attempt(session, begun.attempt_id, ME)
    with catalog.read() as session:
        assert session.get_one(Attempt, begun.attempt_id).holder is None


# --- events


def test_old_events_are_counted_and_forgotten(catalog: Catalog):
    with catalog.write() as session:
        for number in range(10):
            record_event(
                session,
                EventKind.LANDED if number % 2 else EventKind.VERIFIED,
                f"{number}",
                "text",
                at=NOON + number * DAY / 4,
                machine_now=NOON,
                folder_id=1 if number < 8 else None,
                facts={"stored_bytes": 100, "note": None},
            )
    with catalog.write() as session:
        assert [event.subject for event in events_between(session, NOON, NOON + DAY / 2)] == ["0", "1"]
        assert [event.subject for event in events_of(session, 1, "3")] == ["3"]
        assert prune_events(session, before=NOON + DAY, limit=3) == 3
    with catalog.write() as session:
        assert prune_events(session, before=NOON + DAY, limit=3) == 1
        assert prune_events(session, before=NOON + DAY, limit=3) == 0
        assert [event.subject for event in events_after(session, 0)] == ["4", "5", "6", "7", "8", "9"]
        assert prune_events(session, before=NOON, kept_max=1) == 5
    with catalog.read() as session:
        days = day_summaries(session, date(2026, 3, 1), date(2026, 3, 9))
    assert sum(day.events for day in days) == 9
    assert sum(day.stored_bytes for day in days) == 900
    assert {(day.day.day, day.folder_id, day.kind.value): day.events for day in days}[(2, 1, "verified")] == 1
