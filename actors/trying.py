"""Work under a recorded attempt, and under the lease of a chain."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog
from sqlalchemy.orm import Session

from actors.context import AgentContext, StopRequested
from actors.outage import AGAIN_S
from policies.errors import CatalogAwayError, CatalogError, RollforwardError
from storage.catalog.agents import agent_policy
from storage.catalog.attempts import fail_attempt, pause_attempt
from storage.catalog.leases import give_lease_back, renew, take_lease
from storage.catalog.models import EventKind

_log = structlog.get_logger("agent")

_SAY_AGAIN_S: Final = 60.0
"""That the catalogue does not take something is said again after so long."""


@dataclass(slots=True)
class Trial:
    """How work under an attempt ended.

    Attributes:
        done: False while it runs, when it failed, and when it was asked to stop.
        reason: why it failed, if that was an error of ours.
        again_at: when it may be tried again after that (calendar); None if not by itself.
    """

    done: bool = False
    reason: str | None = None
    again_at: datetime | None = None


@contextmanager
def trying(
    context: AgentContext, attempt_id: int, subject: str, folder_id: int, *, is_recorded_later: bool = False
) -> Iterator[Trial]:
    """Do work under an attempt that was begun; what goes wrong is recorded.

    The block ends the attempt itself when it records its result, then sets `done`. An error of ours is an
    expected outcome and stops here; any other is recorded too and goes on, so that it is seen as the mistake
    that it is.

    Args:
        context: surroundings.
        attempt_id: from `begin_attempt`.
        subject: file name, for the event log.
        folder_id: its folder.
        is_recorded_later: whether the result is recorded after the block; then `AtWork.end` is called there, too.

    Crash: the attempt stays, and counts as a crash when it is next begun.
    """
    trial = Trial()
    try:
        yield trial
    except StopRequested:
        persist(context, lambda session: pause_attempt(session, attempt_id, context.holder))
    except RollforwardError as error:
        trial.reason = str(error)
        trial.again_at = _record_failure(
            context, attempt_id, str(error), subject, folder_id, may_pass=error.retryable
        )
    except BaseException as error:
        _record_failure(context, attempt_id, f"{type(error).__name__}: {error}", subject, folder_id)
        raise
    finally:
        if not (trial.done and is_recorded_later):
            context.at_work.end([attempt_id])


def _record_failure(
    context: AgentContext,
    attempt_id: int,
    reason: str,
    subject: str,
    folder_id: int,
    *,
    may_pass: bool = False,
) -> datetime | None:
    """Record a failure; return when the work may be tried again, if it may."""
    again_at: datetime | None = None

    def record(session: Session) -> None:
        nonlocal again_at
        moment = context.moment()
        verdict = fail_attempt(session, attempt_id, moment, reason, may_pass=may_pass)
        if verdict is None:
            return
        again_at = moment.now + verdict.wait if verdict.wait else None
        kind = EventKind.QUARANTINED if verdict.quarantined else EventKind.FAILED
        after = "not tried again by itself" if verdict.quarantined else f"tried again in {verdict.wait}"
        context.note(session, kind, subject, f"{reason}; {after}", folder_id=folder_id)

    persist(context, record)
    return again_at


def persist(context: AgentContext, record: Callable[[Session], object]) -> None:
    """Record the end of work, for as long as it takes: this process lives, so nobody else could end it.

    Args:
        context: surroundings.
        record: writes it down, in one transaction; called again when the catalogue did not take it.

    Crash: what was held is free as soon as this process is seen to be gone.
    """
    said_at: float | None = None
    while True:
        begun_s = time.monotonic()
        try:
            with context.catalog.write() as session:
                record(session)
        except CatalogError as error:
            if isinstance(error, CatalogAwayError):
                context.outage.begin(error, begun_s)
            elif said_at is None or begun_s - said_at > _SAY_AGAIN_S:
                said_at = begun_s
                _log.warning("the end of work is not recorded yet", reason=str(error))
            if context.stopping.wait(AGAIN_S):
                return
        else:
            context.outage.end(begun_s)
            return


@contextmanager
def beginning(context: AgentContext, attempt_ids: list[int]) -> Iterator[Session]:
    """Give a write transaction in which attempts are begun.

    When the catalogue's server goes just then, nobody can tell whether they were: they are let go of as soon as it is
    back. Else they would be renewed for as long as this process lives, and nobody would be at them.

    Args:
        context: surroundings.
        attempt_ids: those that were begun are added to it.

    Raises:
        CatalogError: the catalogue cannot be used.
    """
    begun_s = time.monotonic()
    try:
        with context.catalog.write() as session:
            yield session
        context.at_work.begin(attempt_ids)
    except CatalogAwayError as error:
        context.outage.begin(error, begun_s)
        if attempt_ids:
            persist(context, lambda session: _pause(context, session, attempt_ids))
        raise


def _pause(context: AgentContext, session: Session, attempt_ids: list[int]) -> None:
    for attempt_id in attempt_ids:
        pause_attempt(session, attempt_id, context.holder)


@contextmanager
def holding_chain(context: AgentContext, chain_id: int) -> Iterator[int | None]:
    """Hold the lease of a chain for a while.

    Args:
        context: surroundings.
        chain_id: the chain.

    Yields:
        The fencing token, or None if somebody else holds the lease.

    Crash: the lease ends when its holder is seen to be gone.
    """
    begun_s, fence = time.monotonic(), None
    try:
        with context.catalog.write() as session:
            fence = take_lease(
                session,
                chain_id,
                context.holder,
                machine_now=context.machine_clock(),
                lease_time=context.pace.lease_time,
            )
    except CatalogAwayError as error:
        context.outage.begin(error, begun_s)
        if fence is not None:
            taken = fence  # perhaps: it is not known whether the transaction ended
            persist(context, lambda session: give_lease_back(session, chain_id, taken, context.holder))
        raise
    if fence is not None:
        context.at_work.begin(chain_id=chain_id)
    try:
        yield fence
    finally:
        if fence is not None:
            token = fence
            context.at_work.end(chain_id=chain_id)
            persist(context, lambda session: give_lease_back(session, chain_id, token))


class Pulse(threading.Thread):
    """Renews what this worker holds, and takes over what the agent is told to do, for as long as it lives.

    Args:
        context: surroundings.
    """

    def __init__(self, context: AgentContext) -> None:
        super().__init__(name="pulse", daemon=True)
        self._context = context
        self._ended = threading.Event()

    def run(self) -> None:
        """Renew at a third of the lease time until ended."""
        lease_time = self._context.pace.lease_time
        outage = self._context.outage
        while True:
            begun_s = time.monotonic()
            try:
                with self._context.catalog.write() as session:
                    expires_at = self._context.machine_clock() + lease_time
                    renew(session, self._context.holder, *self._context.at_work.now(), expires_at=expires_at)
                    self._context.throttle.set_percent(agent_policy(session).performance.cpu_percent)
                outage.end(begun_s)
            except CatalogAwayError as error:
                outage.begin(error, begun_s)
            except RollforwardError as error:
                _log.warning("leases not renewed, or settings not read", reason=str(error))
            pause_s = lease_time.total_seconds() / 3
            if self._ended.wait(min(pause_s, AGAIN_S) if outage.lasts else pause_s):
                return

    def end(self) -> None:
        """Stop renewing; a catalogue that does not answer is not waited for."""
        self._ended.set()
        self.join(AGAIN_S)
