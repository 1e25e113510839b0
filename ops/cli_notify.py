"""`rollforward notify`: who is told of what, whether it arrives, and what is open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ops.catalogue_access import json_option, opened_desk, state_option

if TYPE_CHECKING:
    from ops.notify.settings import HeraldSettings
    from ops.settings import Settings
    from policies.notices import TroubleRecord


@click.group(short_help="Notices: who is told of what, a test, what is open.")
def notify() -> None:
    r"""Show who is told of trouble, and try whether it arrives.

    \b
    Who is told stands in herald.toml, in the agent's state directory:

    \b
    [mail]
    server = "smtp.example.org"
    security = "starttls"           # or "tls", or "none"
    user = "backup@example.org"
    password_file = "/etc/rollforward/smtp.password"
    sender = "Backup <backup@example.org>"
    recipients = ["admin@example.org"]
    about = ["failure", "inactivity", "space", "summary"]

    \b
    [summary]                       # a mail each day
    at = "07:00"

    docs/operations.md names every setting. The agent reads the file again when it changes.
    """


@notify.command(
    epilog="""\b
Examples:
  rollforward notify test
  rollforward notify test --json"""
)
@state_option
@json_option("Print one JSON object a way.")
def test(state: str | None, as_json: bool) -> None:
    """Send a test by every way that is set, now, and say whether it was taken."""
    import json
    import secrets
    import socket
    import sys
    from importlib.metadata import version

    from ops.clock import machine_now
    from ops.notify.letter import Letter, LetterKind
    from ops.notify.sending import Sender
    from ops.words import plain
    from policies.errors import RollforwardError
    from storage.catalog.holders import Holder

    failed: RollforwardError | None = None
    with opened_desk(state) as desk:
        settings = _settings(desk.settings)
        letter = Letter(LetterKind.TEST, socket.gethostname(), machine_now())
        sender = Sender(
            desk.catalog, settings, desk.clock, machine_now, version("rollforward"), Holder.of_this_process()
        )
        for way, target in _ways(settings):
            reason = None
            try:
                sender.send_now(letter, way, f"test.{secrets.token_hex(6)}")
            except RollforwardError as error:
                failed, reason = error, str(error)
            if as_json:
                click.echo(
                    json.dumps(
                        {
                            "kind": "test",
                            "way": way,
                            "status": "failed" if reason else "sent",
                            "reason": reason,
                        }
                    )
                )
            elif reason is None:
                click.echo(f"{way}: sent to {plain(target)}")
            else:
                click.echo(
                    f"{way}: {click.style('not sent', fg='red', bold=True)}: {plain(reason)}", err=True
                )
    if failed is not None:
        sys.exit(failed.exit_code)


@notify.command(
    epilog="""\b
Examples:
  rollforward notify show
  rollforward notify show --json"""
)
@state_option
@json_option("Print one JSON object.")
def show(state: str | None, as_json: bool) -> None:
    """Show who is told of what, which troubles are open, and which letters have not arrived."""
    import json

    from ops.words import age_words, plain
    from storage.catalog.letters import waiting_letters
    from storage.catalog.notices import trouble_records

    with opened_desk(state) as desk:
        settings = _settings(desk.settings, may_be_empty=True)
        now = desk.clock()
        with desk.catalog.read() as session:
            records = [one for one in trouble_records(session) if one.is_open]
            letters = waiting_letters(session)
    if as_json:
        click.echo(json.dumps(_json(settings, records, len(letters))))
        return
    for way, target in _ways(settings):
        channel = settings.mail if way == "mail" else settings.webhook
        about = ", ".join(sorted(channel.about)) if channel is not None else ""
        click.echo(f"{way}: {plain(target)} is told of {about}")
    if settings.mail is None and settings.webhook is None:
        click.echo(
            "Nobody is told: set [mail] or [webhook] in herald.toml; `rollforward notify --help` shows how."
        )
    if settings.summary is not None:
        click.echo(f"summary: each day at {settings.summary.at:%H:%M}, {settings.summary.zone.key}")
    for one in records:
        subject = (
            f"{one.trouble.subject} in {one.trouble.place}" if one.trouble.subject else one.trouble.place
        )
        click.echo(f"open: {plain(subject)}: {plain(one.trouble.reason)} ({age_words(now - one.began_at)})")
    for letter in letters:
        click.echo(f"waiting: {plain(letter.content.get('subject', ''))} by {letter.channel}")


def _json(settings: HeraldSettings, records: list[TroubleRecord], waiting: int) -> dict[str, object]:
    return {
        "kind": "notify",
        "ways": [{"way": way, "target": target} for way, target in _ways(settings)],
        "summary_at": settings.summary.at.strftime("%H:%M") if settings.summary else None,
        "open": [
            {
                "kind": one.trouble.kind.value,
                "place": one.trouble.place,
                "subject": one.trouble.subject,
                "reason": one.trouble.reason,
                "since": one.began_at.isoformat(),
            }
            for one in records
        ],
        "letters_waiting": waiting,
    }


def _settings(settings: Settings, *, may_be_empty: bool = False) -> HeraldSettings:
    from ops.notify.settings import herald_file, read_herald_settings
    from policies.errors import ConfigurationError

    path = herald_file(settings.state_dir)
    found = read_herald_settings(path, settings.time_zone)
    if not may_be_empty and found.mail is None and found.webhook is None:
        raise ConfigurationError(
            "nobody is to be told: there is neither [mail] nor [webhook]",
            path=str(path),
            hint="`rollforward notify --help` shows how to set it.",
        )
    return found


def _ways(settings: HeraldSettings) -> list[tuple[str, str]]:
    """Return the ways that are set, and whom each reaches; of a web address no more than its host."""
    from urllib.parse import urlsplit

    ways = []
    if settings.mail is not None:
        ways.append(("mail", ", ".join(settings.mail.recipients)))
    if settings.webhook is not None:
        ways.append(("webhook", urlsplit(settings.webhook.url).hostname or ""))
    return ways
