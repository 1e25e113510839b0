"""What every job is given: the catalogue, both clocks, and who it works for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from sqlalchemy import event
from sqlalchemy.orm import Session

from actors.at_work import AtWork
from actors.outage import Outage
from actors.throttle import Throttle
from hsr.testing_restore.order import Tester
from storage.catalog.attempts import Moment
from storage.catalog.database import Catalog
from storage.catalog.events import Facts, record_event
from storage.catalog.holders import Holder
from storage.catalog.models import EventKind
from storage.credentials import CredentialSeal

Clock = Callable[[], datetime]
"""Gives the present moment, timezone-aware."""

_log = structlog.get_logger("agent")
_TO_BE_SAID = "to be said once it is committed"
_LOUD = {
    EventKind.FOUND_BAD,
    EventKind.FAILED,
    EventKind.QUARANTINED,
    EventKind.FOLDER_LOST,
    EventKind.DISK_STOPPED,
    EventKind.RESTORE_TEST_BAD,
}


def _nobody_asks() -> None:
    pass


class StopRequested(Exception):  # noqa: N818 - not an error: the agent is asked to stop, and work is let go unharmed
    """Raised from a progress report while the agent stops."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient the agent is; all in real time.

    Attributes:
        settle_time: how long an incomplete file has to stand still before it is judged.
        rescan_interval: how long a folder is left alone when no event comes.
        hint_again: how long until a worker is told again of work that it has not begun.
        lease_time: how long a holder counts as alive without renewing.
        silence: how long a folder may give no answer until it counts as lost.
    """

    settle_time: timedelta = timedelta(seconds=30)
    rescan_interval: timedelta = timedelta(minutes=15)
    hint_again: timedelta = timedelta(seconds=10)
    lease_time: timedelta = timedelta(seconds=60)
    silence: timedelta = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class AgentContext:
    """Surroundings of the jobs in one worker.

    Attributes:
        catalog: the catalogue.
        clock: calendar time, which policies are asked with.
        machine_clock: real time.
        engine_version: version of this software; attempts are counted for each apart.
        pace: how patient the agent is.
        holder: this process.
        stopping: set when the worker is asked to stop.
        throttle: keeps this process within its share of the processors.
        answered: called whenever the folder that is worked in has answered.
        outage: what is known of the catalogue's absence.
        at_work: what threads of this process are at.
        seal: opens the passwords that the catalogue holds; None where that is not asked of it.
        tester: tests restores of points; None where nobody does.
        is_quiet: whether what goes into the event log is not said as well: a command says what it did itself.
    """

    catalog: Catalog
    clock: Clock
    machine_clock: Clock
    engine_version: str
    pace: Pace = field(default_factory=Pace)
    holder: Holder = field(default_factory=Holder.of_this_process)
    stopping: threading.Event = field(default_factory=threading.Event)
    throttle: Throttle = field(default_factory=Throttle)
    answered: Callable[[], None] = field(default=_nobody_asks)
    outage: Outage = field(default_factory=Outage)
    at_work: AtWork = field(default_factory=AtWork)
    seal: CredentialSeal | None = None
    tester: Tester | None = None
    is_quiet: bool = False

    def moment(self) -> Moment:
        """Read both clocks."""
        return Moment(self.clock(), self.machine_clock(), self.pace.lease_time, self.holder)

    def report_progress(self, done_bytes: int, total_bytes: int) -> None:
        """Take a progress report of the engine: pause there for the sake of others, end there when the agent stops.

        Raises:
            StopRequested: the agent is asked to stop.
        """
        self.pause()

    def pause(self, cpu_percent: float | None = None) -> None:
        """Sleep until this process is within its share of the processors; it is not the folder that is silent then.

        Args:
            cpu_percent: of the machine's processors; None for what the agent as a whole may take.

        Raises:
            StopRequested: the agent is asked to stop.
        """
        self.answered()
        self.throttle.pause(cpu_percent, self._sleep)
        if self.stopping.is_set():
            raise StopRequested

    def _sleep(self, seconds: float) -> bool:
        is_stopping = self.stopping.wait(seconds)
        self.answered()
        return is_stopping

    def note(
        self,
        session: Session,
        kind: EventKind,
        subject: str,
        text: str,
        *,
        folder_id: int | None = None,
        chain_id: int | None = None,
        facts: Facts | None = None,
    ) -> None:
        """Write an entry into the event log and, once that is committed, the same into the process's log.

        Args:
            session: of a write transaction.
            kind: what kind of thing happened.
            subject: file name or path it is about.
            text: what happened, in words.
            folder_id: folder concerned.
            chain_id: chain concerned.
            facts: further fields, JSON values.
        """
        record_event(
            session,
            kind,
            subject,
            text,
            at=self.clock(),
            machine_now=self.machine_clock(),
            folder_id=folder_id,
            chain_id=chain_id,
            facts=facts,
        )
        if self.is_quiet:
            return
        emit = _log.warning if kind in _LOUD else _log.info
        fields = {"subject": subject, "text": text, "folder": folder_id, "chain": chain_id, **(facts or {})}
        _once_committed(session, lambda: emit(kind.value, **fields))


def _once_committed(session: Session, say: Callable[[], object]) -> None:
    """Have something said when a transaction is committed; of one that is not, nothing happened."""
    waiting: list[Callable[[], object]] | None = session.info.get(_TO_BE_SAID)
    if waiting is None:
        waiting = session.info[_TO_BE_SAID] = []
        event.listen(session, "after_commit", _say_all)
    waiting.append(say)


def _say_all(session: Session) -> None:
    waiting: list[Callable[[], object]] = session.info[_TO_BE_SAID]
    while waiting:
        waiting.pop(0)()
