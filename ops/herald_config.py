"""The herald's settings as part of the one file of settings; they stay in `herald.toml`, where the herald reads them.

A file that has none of their sections leaves them as they are; one that has some says all of them. Passwords are in
files of their own, which are named. The address of a webhook, or of a dead-man's switch, is a secret too, most of the
time: of it, what comes after the host is left out, and taken from what is stored when it is applied again.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import time
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ops.notify.settings import parse_herald_settings, read_herald_settings
from ops.toml_text import toml_line, toml_value
from ops.whole_file import write_whole
from policies.errors import ConfigurationError

HeraldValue = bool | int | str | Sequence[str]
HeraldLayer = Mapping[str, Mapping[str, HeraldValue]]
"""Sections of plain values; only those that are there, with what is set in them."""

UNTOLD: Final = "…"
"""Stands for what an export leaves out of an address."""

_TOPICS: Final = ("failure", "inactivity", "space", "summary")
_Fields = Mapping[str, tuple[HeraldValue | None, str]]

HERALD_FIELDS: Final[Mapping[str, _Fields]] = {
    "mail": {
        "server": (None, "SMTP server"),
        "security": ("starttls", "starttls, tls or none"),
        "port": (None, "1 to 65535; 587, 465 or 25 if not set"),
        "user": (None, "with password_file, or neither"),
        "password_file": (None, "holds the password; a name without a slash is a credential of systemd"),
        "ca_file": (None, "certificates to trust in place of the system's"),
        "sender": (None, "whom letters come from"),
        "recipients": (None, "whom they go to"),
        "subject_prefix": ("[rollforward]", "what each subject begins with"),
        "about": (_TOPICS, "what is told"),
        "timeout_s": (60, "1 to 600"),
    },
    "webhook": {
        "url": (None, "http or https"),
        "secret_file": (None, "holds what letters are signed with"),
        "ca_file": (None, "certificates to trust in place of the system's"),
        "about": (_TOPICS, "what is told"),
        "timeout_s": (10, "1 to 600"),
    },
    "summary": {
        "at": ("07:00", "00:00 to 23:59"),
        "time_zone": (None, "IANA name; the agent's if not set"),
    },
    "metrics": {
        "address": ("127.0.0.1", "IP address to listen on"),
        "port": (9_464, "0 to 65535"),
        "token_file": (None, "holds what whoever asks must show"),
    },
    "alive": {
        "url": (None, "http or https"),
        "every_s": (60, "5 to 86400"),
        "ca_file": (None, "certificates to trust in place of the system's"),
    },
}
"""Sections of the herald, and what may be set in each: default, None where there is none; meaning."""

_SECTION_WORDS: Final[Mapping[str, str]] = {
    "mail": "letters by e-mail",
    "webhook": "letters by HTTP",
    "summary": "a letter each day",
    "metrics": "metrics and health, for programs",
    "alive": "a dead-man's switch that is called while all is well",
}
_HEAD: Final = "# Written by `rollforward config apply`; what is not set is at its default.\n"


def read_herald_layer(path: Path, time_zone: str) -> HeraldLayer:
    """Read what is set in `herald.toml`; nothing if there is no such file.

    Args:
        path: the file.
        time_zone: IANA name of the agent's zone.

    Raises:
        ConfigurationError: it cannot be read, or says what cannot be.
    """
    read_herald_settings(path, time_zone)
    try:
        return plain_herald(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def plain_herald(held: Mapping[str, object]) -> HeraldLayer:
    """Give settings that were found good as plain values, each in one spelling.

    Args:
        held: sections as TOML gives them.
    """
    return {
        section: {str(name): _plain(value) for name, value in values.items()}
        for section, values in held.items()
        if isinstance(values, Mapping)
    }


def check_herald_section(name: str, held: object, where: str) -> None:
    """Make sure that a section of a file says what can be; of an address what is left out is not looked at.

    Args:
        name: of the section.
        held: what it holds, as TOML gives it.
        where: the file, for errors.

    Raises:
        ConfigurationError: it does not; the message names the setting and what it takes, but no secret.
    """
    if isinstance(held, Mapping):
        url = held.get("url")
        if isinstance(url, str) and url.endswith(f"/{UNTOLD}"):
            held = {**held, "url": url.removesuffix(UNTOLD)}
    parse_herald_settings({name: held}, "UTC", where=where)


def herald_lines(layer: HeraldLayer) -> Iterator[str]:
    """Write what is set as lines of the one file, without secrets; what is off, or at its default, as comments.

    Args:
        layer: what is set.
    """
    for section, fields in HERALD_FIELDS.items():
        yield ""
        if section not in layer:
            yield f"# [{section}]  # {_SECTION_WORDS[section]}: switched off"
            continue
        yield f"[{section}]  # {_SECTION_WORDS[section]}"
        values = layer[section]
        rows = [
            (_line(name, values.get(name), default), meaning) for name, (default, meaning) in fields.items()
        ]
        width = max((len(line) for line, _ in rows if line), default=0)
        yield from (f"{line:<{width}}  # {meaning}" for line, meaning in rows if line)


def known_rest(wanted: HeraldLayer, stored: HeraldLayer, where: str) -> HeraldLayer:
    """Put back into addresses what an export left out of them.

    Args:
        wanted: what a file says.
        stored: what is set at present.
        where: the file, for errors.

    Raises:
        ConfigurationError: nobody knows the rest of an address.
    """
    found = {section: dict(values) for section, values in wanted.items()}
    for section, values in found.items():
        url = values.get("url")
        if not isinstance(url, str) or not url.endswith(f"/{UNTOLD}"):
            continue
        known = stored.get(section, {}).get("url")
        if not isinstance(known, str) or shown_url(known) != url:
            raise ConfigurationError(
                f"{section}.url cannot be {url!r}: the rest of the address is not known here",
                path=where,
                hint="Write the whole address: an export leaves out what may be a secret.",
            )
        values["url"] = known
    return found


def herald_changes(before: HeraldLayer, after: HeraldLayer) -> list[tuple[str, str, str]]:
    """Tell what differs: the setting, its value before and after, in words and without secrets."""
    found = []
    for section, fields in HERALD_FIELDS.items():
        old, new = before.get(section), after.get(section)
        if (old is None) != (new is None):
            found.append((section, "off" if old is None else "on", "off" if new is None else "on"))
        for name in fields:
            was, then = (old or {}).get(name), (new or {}).get(name)
            if was != then:
                words, later = _words(name, was), _words(name, then)
                found.append(
                    (f"{section}.{name}", words, later if words != later else f"{later}, another one")
                )
    return found


def write_herald(path: Path, layer: HeraldLayer) -> None:
    """Write `herald.toml`, for its owner alone where it is new.

    Args:
        path: the file; a link is followed.
        layer: what is to be set.

    Raises:
        StorageError: it cannot be written.

    Crash: it is the old one or the new one, whole.
    """
    lines: list[str] = []
    for section, values in layer.items():
        lines += ["", f"[{section}]", *(toml_line(name, value) for name, value in values.items())]
    write_whole(Path(os.path.realpath(path)), _HEAD + "\n".join(lines) + "\n", private=True)


def shown_url(url: str) -> str:
    """Give an address without what may be a secret in it: all that comes after its host."""
    parts = urlsplit(url)
    host = f"{parts.scheme}://{parts.netloc}"
    return url if url in (host, f"{host}/") else f"{host}/{UNTOLD}"


def _plain(value: object) -> HeraldValue:
    if isinstance(value, time):
        return value.strftime("%H:%M")
    if isinstance(value, (list, tuple)):
        return [str(one) for one in value]
    return value if isinstance(value, (bool, int)) else str(value)


def _line(name: str, value: HeraldValue | None, default: HeraldValue | None) -> str:
    if value is not None:
        shown = shown_url(value) if name == "url" and isinstance(value, str) else value
        return toml_line(name, shown)
    return "" if default is None else f"# {name} = {toml_value(default)}"


def _words(name: str, value: HeraldValue | None) -> str:
    if value is None:
        return "not set"
    if isinstance(value, str):
        return shown_url(value) if name == "url" else value
    return ", ".join(value) if isinstance(value, Sequence) else str(value)
