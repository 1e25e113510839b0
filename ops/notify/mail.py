"""Sending letters by e-mail.

Sending is at least once: a crash between the server's answer and our record of it sends a letter again, with the same
Message-ID, by which mail programs tell that it is the same. Where STARTTLS is asked for and not to be had, nothing is
sent.
"""

from __future__ import annotations

import smtplib
import socket
import ssl
from datetime import tzinfo
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime, getaddresses, parseaddr
from typing import Final

from ops.notify.deadline import deadline
from ops.notify.letter import Letter
from ops.notify.letter_html import letter_html
from ops.notify.letter_text import letter_text
from ops.notify.secret_file import read_secret
from ops.notify.settings import MailSettings
from ops.words import plain
from policies.errors import DeliveryError

_SUBJECT_MAX: Final = 150


def make_mail(letter: Letter, settings: MailSettings, zone: tzinfo, letter_id: str) -> EmailMessage:
    """Write a letter as a mail with text and HTML.

    Args:
        letter: the letter.
        settings: sender, recipients, prefix.
        zone: whose time is shown.
        letter_id: names the letter; the same letter has the same Message-ID.
    """
    mail = EmailMessage(policy.SMTP)
    subject = f"{settings.subject_prefix} {plain(letter.subject)}".strip()
    mail["Subject"] = subject if len(subject) <= _SUBJECT_MAX else subject[: _SUBJECT_MAX - 1] + "…"
    mail["From"] = settings.sender
    mail["To"] = ", ".join(settings.recipients)
    mail["Date"] = format_datetime(letter.made_at)
    mail["Message-ID"] = f"<{letter_id}@{_domain(settings)}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail["X-Auto-Response-Suppress"] = "All"
    mail.set_content(letter_text(letter, zone))
    mail.add_alternative(letter_html(letter, zone), subtype="html")
    return mail


def send_mail(mail: EmailMessage, settings: MailSettings) -> None:
    """Hand a mail to the server.

    Args:
        mail: from `make_mail`.
        settings: the server, and how to log in.

    Raises:
        DeliveryError: the server cannot be reached, or does not take it; the message says at which step.
        ConfigurationError: the password cannot be read.

    Crash: the server has it or not; sending it again does no harm.
    """
    password = read_secret(settings.password_file) if settings.user else ""
    held: list[smtplib.SMTP] = []

    def connection() -> socket.socket | None:
        return held[0].sock if held else None

    try:
        with deadline(settings.timeout_s, connection), _connect(settings) as server:
            held.append(server)
            if settings.security == "starttls":
                server.starttls(context=_tls(settings))
            if settings.user:
                server.login(settings.user, password)
            sender = parseaddr(settings.sender)[1]
            refused = server.send_message(mail, sender, [one for _, one in getaddresses(settings.recipients)])
    except (OSError, smtplib.SMTPException, UnicodeError) as error:
        raise DeliveryError(_words(error), path=f"{settings.server}:{settings.port}") from None
    if refused:
        raise DeliveryError(
            f"the server does not take mail for {', '.join(sorted(refused))}",
            path=f"{settings.server}:{settings.port}",
        )


def _connect(settings: MailSettings) -> smtplib.SMTP:
    if settings.security == "tls":
        return smtplib.SMTP_SSL(
            settings.server, settings.port, timeout=settings.timeout_s, context=_tls(settings)
        )
    return smtplib.SMTP(settings.server, settings.port, timeout=settings.timeout_s)


def _tls(settings: MailSettings) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=settings.ca_file or None)


def _domain(settings: MailSettings) -> str:
    return parseaddr(settings.sender)[1].rpartition("@")[2]


def _words(error: Exception) -> str:
    """Say what a server answered; never what was sent to it."""
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return f"the server refuses name or password ({error.smtp_code})"
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return f"the server does not take mail for {', '.join(sorted(error.recipients))}"
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return "the server offers no STARTTLS, or no way to log in; nothing was sent"
    if isinstance(error, smtplib.SMTPResponseException):
        answer = error.smtp_error
        text = answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)
        return f"the server answers {error.smtp_code}: {plain(text)[:200]}"
    if isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError):
        return "the server does not answer in time"
    return f"the server cannot be reached: {error}"
