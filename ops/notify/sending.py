"""Sending the letters that wait: each attempt is recorded before it starts, and tried again with growing pauses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from ops.notify.letter import Letter, letter_from_json
from ops.notify.mail import make_mail, send_mail
from ops.notify.settings import HeraldSettings
from ops.notify.telling import MAIL, WEBHOOK
from ops.notify.webhook import post_letter
from policies.errors import RollforwardError
from storage.catalog.attempts import Admission, Moment, Work, begin_attempt, end_attempt, fail_attempt
from storage.catalog.database import Catalog
from storage.catalog.holders import Holder
from storage.catalog.letters import WaitingLetter, drop_channel, letter_arrived, waiting_letters
from storage.catalog.models import WorkKind

_log = structlog.get_logger("herald")

_LONGEST_SENDING: Final = timedelta(minutes=15)
"""Longer than any time limit that settings allow."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends letters.

    Attributes:
        catalog: the catalogue.
        settings: how they are sent.
        clock: calendar time.
        machine_clock: real time.
        engine_version: version of this software.
        holder: this process.
    """

    catalog: Catalog
    settings: HeraldSettings
    clock: Callable[[], datetime]
    machine_clock: Callable[[], datetime]
    engine_version: str
    holder: Holder

    def send_waiting(self, is_stopping: Callable[[], bool] = lambda: False) -> int:
        """Send what waits and may be tried now.

        Args:
            is_stopping: whether to end before the next letter.

        Returns:
            How many arrived.

        Raises:
            CatalogError: the catalogue cannot be used.

        Crash: a letter that had arrived may be sent once more, with the same identity.
        """
        with self.catalog.read() as session:
            waiting = waiting_letters(session)
        arrived = 0
        for letter in waiting:
            if is_stopping():
                break
            if self._way(letter.channel) is None:
                with self.catalog.write() as session:
                    drop_channel(session, letter.channel)
            elif self._try(letter):
                arrived += 1
        return arrived

    def send_now(self, letter: Letter, channel: str, letter_id: str) -> None:
        """Send a letter by one way, whatever happened before.

        Raises:
            DeliveryError: it did not arrive.
            ConfigurationError: a password or secret cannot be read.
        """
        settings = self.settings
        if channel == MAIL and settings.mail is not None:
            send_mail(make_mail(letter, settings.mail, settings.zone, letter_id), settings.mail)
        elif channel == WEBHOOK and settings.webhook is not None:
            post_letter(letter, settings.webhook, settings.zone, letter_id, self.machine_clock())

    def _try(self, waiting: WaitingLetter) -> bool:
        subject = f"letter {waiting.letter_id} by {waiting.channel}"
        work = Work(WorkKind.NOTIFY, subject, self.engine_version)
        with self.catalog.write() as session:
            admitted = begin_attempt(session, work, self._moment())
        if admitted.admission is not Admission.BEGUN:
            return False
        try:
            letter = letter_from_json(waiting.content).about(self._way(waiting.channel) or ())
            if letter is not None:
                self.send_now(letter, waiting.channel, f"{waiting.letter_id}.{waiting.made_at:%Y%m%d%H%M%S}")
        except (RollforwardError, ValueError) as error:
            self._record_failure(admitted.attempt_id, subject, error)
            return False
        with self.catalog.write() as session:
            if end_attempt(session, admitted.attempt_id, self.holder):
                letter_arrived(session, waiting.letter_id, waiting.channel, now=self.clock())
        _log.info("sent", subject=subject, text=letter.subject if letter else "nothing that was asked for")
        return True

    def _record_failure(self, attempt_id: int, subject: str, error: Exception) -> None:
        may_pass = isinstance(error, RollforwardError)
        with self.catalog.write() as session:
            verdict = fail_attempt(session, attempt_id, self._moment(), str(error), may_pass=may_pass)
        wait = None if verdict is None or verdict.quarantined else str(verdict.wait)
        _log.warning("not sent", subject=subject, text=str(error), tried_again_in=wait)

    def _way(self, channel: str) -> frozenset[str] | None:
        """Return what a way's recipients asked for; None if there is no such way."""
        ways = {MAIL: self.settings.mail, WEBHOOK: self.settings.webhook}
        way = ways.get(channel)
        return way.about if way is not None else None

    def _moment(self) -> Moment:
        return Moment(self.clock(), self.machine_clock(), _LONGEST_SENDING, self.holder)
