"""The one row that says whose catalogue this is, what the agent is told to do, and what it knows of its clock."""

from __future__ import annotations

import secrets
from datetime import date, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from policies.clock_watch import ClockReading, ClockWatch
from policies.folder_policy import AgentPolicy, parse_agent_policy
from storage.catalog.chains import make_folder_due
from storage.catalog.memory_models import Agent
from storage.catalog.models import Layer


def agent_of(session: Session, *, now: datetime, uid: str | None = None) -> Agent:
    """Return the agent's row, made if the catalogue is new.

    Args:
        session: of a write transaction if the catalogue may be new.
        now: calendar time.
        uid: who the agent was in an earlier catalogue, if that is known: so its folders are still its own.
    """
    agent = session.get(Agent, 1)
    if agent is None:
        from sqlalchemy.dialects import postgresql, sqlite  # they load much, for once in a catalogue's life

        insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
        row = {
            "id": 1,
            "uid": uid or secrets.token_hex(16),
            "made_at": now,
            "settings": {},
            "settings_revision": 0,
        }
        session.execute(insert(Agent).values(**row).on_conflict_do_nothing())  # another agent may be quicker
        agent = session.get_one(Agent, 1)
    return agent


def agent_policy(session: Session) -> AgentPolicy:
    """Return what the agent is told to do, what is built in where nothing is set.

    Raises:
        ConfigurationError: what is stored is no setting of this version.
    """
    agent = session.get(Agent, 1)
    return parse_agent_policy({} if agent is None else agent.settings)


def set_agent_settings(session: Session, layer: Layer, *, now: datetime) -> AgentPolicy:
    """Replace the agent's settings; every chain is due for planning then.

    Args:
        session: of a write transaction.
        layer: all that is set, as `policies.folder_policy.agent_layer` writes it.
        now: calendar time.

    Returns:
        What holds from now on.

    Raises:
        ConfigurationError: there is no such setting, or its value is not allowed; nothing is changed.
    """
    policy = parse_agent_policy(layer)
    agent = agent_of(session, now=now)
    if agent.settings != layer:
        agent.settings = layer
        agent.settings_revision += 1
        make_folder_due(session, None)
    return policy


def clock_watch(session: Session) -> ClockWatch:
    """Return what is known of the system clock."""
    agent = session.get(Agent, 1)
    return ClockWatch() if agent is None or agent.clock_watch is None else _unpack_watch(agent.clock_watch)


def set_clock_watch(session: Session, watch: ClockWatch, *, now: datetime) -> None:
    """Record what is known of the system clock.

    Args:
        session: of a write transaction.
        watch: what is known.
        now: calendar time.
    """
    agent_of(session, now=now).clock_watch = _pack_watch(watch)


def last_summary_day(session: Session) -> date | None:
    """Return the local day of the last daily summary; None if there was none."""
    return session.scalar(select(Agent.summary_day))


def set_summary_day(session: Session, day: date, *, now: datetime) -> None:
    """Record that the daily summary of a local day was made."""
    agent_of(session, now=now).summary_day = day


def _pack_watch(watch: ClockWatch) -> dict[str, str | float | None]:
    last = watch.last
    return {
        "wall": None if last is None else last.wall.isoformat(),
        "running_s": None if last is None else last.running.total_seconds(),
        "boot": None if last is None else last.boot,
        "off_by_s": watch.off_by.total_seconds(),
        "jumped_at": None if watch.jumped_at is None else watch.jumped_at.isoformat(),
        "steady_for_s": watch.steady_for.total_seconds(),
    }


def _unpack_watch(packed: dict[str, str | float | None]) -> ClockWatch:
    last = None
    if packed["wall"] is not None:
        last = ClockReading(
            wall=datetime.fromisoformat(str(packed["wall"])),
            running=timedelta(seconds=float(packed["running_s"] or 0)),
            boot=str(packed["boot"]),
        )
    jumped_at = packed["jumped_at"]
    return ClockWatch(
        last=last,
        off_by=timedelta(seconds=float(packed["off_by_s"] or 0)),
        jumped_at=None if jumped_at is None else datetime.fromisoformat(str(jumped_at)),
        steady_for=timedelta(seconds=float(packed["steady_for_s"] or 0)),
    )
