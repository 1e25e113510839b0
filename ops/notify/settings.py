"""Who is told of what, and where programs look: the settings of the herald, from one TOML file.

    [mail]                                      [webhook]
    server = "smtp.example.org"                 url = "https://chat.example.org/hooks/backup"
    security = "starttls"                       secret_file = "/etc/rollforward/webhook.secret"
    user = "backup@example.org"
    password_file = "/etc/rollforward/smtp.password"     [metrics]
    sender = "Backup <backup@example.org>"      port = 9464
    recipients = ["admin@example.org"]
                                                [alive]
    [summary]                                   url = "https://health.example.org/ping/…"
    at = "07:00"

A section that is missing is switched off. Passwords and secrets never stand in the file: it names files that hold them.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import time
from email.utils import parseaddr
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from ops.notify.section import Section
from policies.errors import ConfigurationError
from policies.notices import Topic

FILE_NAME: Final = "herald.toml"
"""Its name in the agent's state directory."""

_FILE_BYTES_MAX: Final = 1 << 20
_TOPICS: Final = tuple(topic.value for topic in Topic)
_PORTS: Final[Mapping[str, int]] = {"starttls": 587, "tls": 465, "none": 25}
_SECTIONS: Final = ("mail", "webhook", "summary", "metrics", "alive")


@dataclass(frozen=True, slots=True)
class MailSettings:
    """How mail is sent.

    Attributes:
        server: host name of the SMTP server.
        port: its port.
        security: "starttls", "tls" (from the first byte on) or "none".
        user: name to log in with; empty for none.
        password_file: holds the password, see `secret_file`.
        ca_file: certificates to trust in place of the system's; empty for the system's.
        sender: whom it comes from.
        recipients: whom it goes to.
        subject_prefix: what each subject begins with.
        about: what they are told of.
        timeout_s: longest time that sending may take.
    """

    server: str
    port: int
    security: str
    user: str
    password_file: str
    ca_file: str
    sender: str
    recipients: tuple[str, ...]
    subject_prefix: str
    about: frozenset[str]
    timeout_s: int


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Where notices are posted.

    Attributes:
        url: http or https.
        secret_file: holds the secret that they are signed with; empty for no signature.
        ca_file: certificates to trust in place of the system's; empty for the system's.
        about: what is posted.
        timeout_s: longest time that a post may take.
    """

    url: str
    secret_file: str
    ca_file: str
    about: frozenset[str]
    timeout_s: int


@dataclass(frozen=True, slots=True)
class SummarySettings:
    """When the daily summary is made.

    Attributes:
        at: time of day.
        zone: the time zone of that, and of all times in letters.
    """

    at: time
    zone: ZoneInfo


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """Where programs ask for metrics and health.

    Attributes:
        address: IP address to listen on.
        port: TCP port; 0 for any free one.
        token_file: holds the token that they must show; empty for none.
    """

    address: str
    port: int
    token_file: str


@dataclass(frozen=True, slots=True)
class AliveSettings:
    """What is called for as long as all is well.

    Attributes:
        url: http or https.
        every_s: how often.
        ca_file: certificates to trust in place of the system's; empty for the system's.
    """

    url: str
    every_s: int
    ca_file: str


@dataclass(frozen=True, slots=True)
class HeraldSettings:
    """All of it; None for what is switched off.

    Attributes:
        mail: letters by e-mail.
        webhook: letters by HTTP.
        summary: the daily summary.
        zone: the time zone that times in letters are shown in.
        endpoint: metrics and health.
        alive: the dead-man's switch.
    """

    mail: MailSettings | None
    webhook: WebhookSettings | None
    summary: SummarySettings | None
    zone: ZoneInfo
    endpoint: EndpointSettings | None
    alive: AliveSettings | None


def herald_file(state_dir: Path) -> Path:
    """Return the file with the herald's settings: in the state directory, unless ROLLFORWARD_HERALD names another."""
    named = os.environ.get("ROLLFORWARD_HERALD")
    return Path(named) if named else state_dir / FILE_NAME


def read_herald_settings(path: Path, time_zone: str) -> HeraldSettings:
    """Read the settings; a file that is missing switches everything off.

    Args:
        path: the file.
        time_zone: IANA name of the zone that holds where none is set.

    Raises:
        ConfigurationError: it cannot be read, or a setting in it is wrong; the message names it and what it takes.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_FILE_BYTES_MAX)
        layer: Mapping[str, object] = tomllib.loads(text.decode())
    except FileNotFoundError:
        layer = {}
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", path=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"not a TOML file: {error}", path=str(path)) from error
    return parse_herald_settings(layer, time_zone, where=str(path))


def parse_herald_settings(layer: Mapping[str, object], time_zone: str, *, where: str) -> HeraldSettings:
    """Check settings.

    Args:
        layer: sections of plain values, as TOML gives them.
        time_zone: IANA name of the zone that holds where none is set.
        where: what they come from, for errors.

    Raises:
        ConfigurationError: a setting is wrong; the message names it and what it takes.
    """
    for name in layer:
        if name not in _SECTIONS:
            raise ConfigurationError(
                f"there is no section [{name}]", path=where, hint=f"There are: {', '.join(_SECTIONS)}."
            )
    sections = {name: Section(name, held, where) for name, held in layer.items()}
    summary = _summary(sections["summary"], time_zone) if "summary" in sections else None
    return HeraldSettings(
        mail=_mail(sections["mail"]) if "mail" in sections else None,
        webhook=_webhook(sections["webhook"]) if "webhook" in sections else None,
        summary=summary,
        zone=summary.zone if summary else ZoneInfo(time_zone),
        endpoint=_endpoint(sections["metrics"]) if "metrics" in sections else None,
        alive=_alive(sections["alive"]) if "alive" in sections else None,
    )


def _mail(section: Section) -> MailSettings:
    server = section.text("server")
    security = section.choice("security", "starttls", tuple(_PORTS))
    found = MailSettings(
        server=server,
        port=section.number("port", _PORTS[security], 1, 65_535),
        security=security,
        user=section.text("user", ""),
        password_file=section.text("password_file", ""),
        ca_file=section.text("ca_file", ""),
        sender=section.text("sender"),
        recipients=section.texts("recipients"),
        subject_prefix=section.text("subject_prefix", "[rollforward]"),
        about=section.words("about", _TOPICS),
        timeout_s=section.number("timeout_s", 60, 1, 600),
    )
    for name, address in (("sender", found.sender), *(("recipients", one) for one in found.recipients)):
        if not all(parseaddr(address)[1].rpartition("@")[::2]):
            raise section.wrong(name, address, "an address such as admin@example.org")
    if bool(found.user) != bool(found.password_file):
        raise section.wrong("user", found.user, "a name together with password_file, or neither")
    if found.user and security == "none" and not _is_loopback(server):
        raise section.wrong("security", security, "starttls or tls where a password is sent")
    section.end()
    return found


def _webhook(section: Section) -> WebhookSettings:
    found = WebhookSettings(
        url=_url(section, "url"),
        secret_file=section.text("secret_file", ""),
        ca_file=section.text("ca_file", ""),
        about=section.words("about", _TOPICS),
        timeout_s=section.number("timeout_s", 10, 1, 600),
    )
    section.end()
    return found


def _summary(section: Section, time_zone: str) -> SummarySettings:
    found = SummarySettings(section.clock_time("at", "07:00"), section.zone("time_zone", time_zone))
    section.end()
    return found


def _endpoint(section: Section) -> EndpointSettings:
    address = section.text("address", "127.0.0.1")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise section.wrong("address", address, "an IP address such as 127.0.0.1 or ::1") from None
    token_file = section.text("token_file", "")
    if not token_file and not _is_loopback(address):
        raise section.wrong("token_file", None, "a file with a token where others than this machine can ask")
    found = EndpointSettings(address, section.number("port", 9_464, 0, 65_535), token_file)
    section.end()
    return found


def _alive(section: Section) -> AliveSettings:
    found = AliveSettings(
        _url(section, "url"), section.number("every_s", 60, 5, 86_400), section.text("ca_file", "")
    )
    section.end()
    return found


def _url(section: Section, name: str) -> str:
    url = section.text(name)
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not url.isascii() or " " in url:
        raise section.wrong(name, "…", "an address that begins with https:// or http://")
    if parts.username is not None or parts.password is not None:
        raise section.wrong(name, "…", "an address without a name and a password in it")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
