"""From what is wrong to letters: judged, recorded and put in line for their ways, in one transaction."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog
from sqlalchemy.orm import Session

from ops.notify.letter import TITLES, Letter, LetterKind, entry_of
from ops.notify.settings import HeraldSettings
from ops.notify.summary import folder_lines
from ops.notify.troubles import find_troubles
from ops.observe.space import Space
from policies.notices import NoticeDecision, TroubleRecord, judge_notices, summary_day
from storage.catalog.agents import agent_of, last_summary_day, set_summary_day
from storage.catalog.database import Catalog
from storage.catalog.events import record_event
from storage.catalog.letters import add_letter, prune_letters
from storage.catalog.models import EventKind
from storage.catalog.notices import set_trouble_records, trouble_records

_log = structlog.get_logger("herald")

MAIL, WEBHOOK = "mail", "webhook"
"""The ways by which letters go."""

_KEPT: Final = timedelta(days=14)
"""A letter is forgotten after so long, whether it arrived or not."""


@dataclass(frozen=True, slots=True)
class Teller:
    """Decides what is told, and puts it in line.

    Attributes:
        catalog: the catalogue.
        settings: who is told of what.
        clock: calendar time.
        machine_clock: real time.
    """

    catalog: Catalog
    settings: HeraldSettings
    clock: Callable[[], datetime]
    machine_clock: Callable[[], datetime]

    def look(self, spaces: Mapping[str, Space]) -> None:
        """Look at everything once, and tell what is worth it.

        Args:
            spaces: devices that could be measured, by folder.

        Raises:
            CatalogError: the catalogue cannot be used.

        Crash: nothing was told and nothing recorded, or letters wait to be sent.
        """
        now = self.clock()
        with self.catalog.read() as session:
            known = trouble_records(session)
            findings = find_troubles(session, now, spaces, known)
            decision = judge_notices(known, findings.troubles, now, unknown=findings.unknown)
            is_summary_due = self._summary_day(session, now) is not None
        if decision.records == known and not is_summary_due:
            return
        with self.catalog.write() as session:
            session.refresh(agent_of(session, now=now), with_for_update=True)  # one herald at a time
            known = trouble_records(session)
            decision = judge_notices(known, findings.troubles, now, unknown=findings.unknown)
            set_trouble_records(session, decision.records)
            self._tell(session, decision, now)
            self._summarise(session, decision.records, spaces, now)
            prune_letters(session, before=now - _KEPT)

    def send_test(self) -> int | None:
        """Put a test letter in line for every way; return its row, or None if there is no way."""
        letter = Letter(LetterKind.TEST, socket.gethostname(), self.clock())
        with self.catalog.write() as session:
            return self._put(session, letter)

    def _tell(self, session: Session, decision: NoticeDecision, now: datetime) -> None:
        if not decision.says_something:
            return
        letter = Letter(
            LetterKind.TROUBLE,
            socket.gethostname(),
            now,
            opened=tuple(entry_of(record) for record in decision.opened),
            cleared=tuple(entry_of(record) for record in decision.cleared),
        )
        for what, records in (("trouble", decision.opened), ("trouble is over", decision.cleared)):
            for record in records:
                self._note(session, what, record, now)
        self._put(session, letter)

    def _note(self, session: Session, what: str, record: TroubleRecord, now: datetime) -> None:
        trouble = record.trouble
        subject = trouble.subject or trouble.place
        text = f"{what}: {TITLES[trouble.kind]}: {trouble.reason}"
        record_event(
            session,
            EventKind.NOTICE,
            subject,
            text,
            at=now,
            machine_now=self.machine_clock(),
            facts={"kind": trouble.kind.value, "place": trouble.place, "is_open": int(record.is_open)},
        )
        emit = _log.warning if record.is_open else _log.info
        emit("notice", subject=subject, text=text, kind=trouble.kind.value, place=trouble.place)

    def _summary_day(self, session: Session, now: datetime) -> object:
        summary = self.settings.summary
        if summary is None:
            return None
        return summary_day(last_summary_day(session), summary.at, summary.zone, now)

    def _summarise(
        self, session: Session, records: tuple[TroubleRecord, ...], spaces: Mapping[str, Space], now: datetime
    ) -> None:
        summary = self.settings.summary
        if summary is None:
            return
        last = last_summary_day(session)
        day = summary_day(last, summary.at, summary.zone, now)
        if day is None:
            return
        set_summary_day(session, day, now=now)
        if last is None:
            return  # the first one comes when its time next comes
        lines, folders_in_all = folder_lines(session, now, spaces)
        letter = Letter(
            LetterKind.SUMMARY,
            socket.gethostname(),
            now,
            opened=tuple(entry_of(record) for record in records if record.is_open),
            day=day,
            folders=tuple(lines),
            folders_in_all=folders_in_all,
        )
        self._put(session, letter)

    def _put(self, session: Session, letter: Letter) -> int | None:
        ways = [
            (way, channel.about)
            for way, channel in ((MAIL, self.settings.mail), (WEBHOOK, self.settings.webhook))
            if channel is not None
        ]
        channels = [way for way, about in ways if letter.about(about) is not None]
        if not channels:
            return None
        return add_letter(session, letter.to_json(), channels, made_at=letter.made_at)
