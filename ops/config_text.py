"""Writing the file that says all that the agent is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from ops.config_document import ConfigDocument, FolderEntry, LocationEntry, Login
from ops.herald_config import herald_lines
from ops.setting_rows import Layer
from ops.toml_text import toml_line, toml_value
from policies.folder_policy import AGENT_FIELDS, FOLDER_FIELDS
from policies.setting_field import SettingField, SettingValue

_HEAD = """\
# What the agent is told to do. Apply it with: rollforward config apply FILE
# A setting behind a # is at its default. Passwords are never written here: name a file with password_file.
"""


def config_text(document: ConfigDocument) -> str:
    """Write a document as TOML; `config_document.parse_config` reads the same from it.

    Args:
        document: what to write; nothing in it is half of a surrogate pair.

    Returns:
        The file's content, with all settings of the agent, those at their defaults as comments.
    """
    lines = [*_HEAD.splitlines(), *_all_sections(document.settings)]
    lines += [*herald_lines(document.herald), *_default_login(document.login)]
    for location in document.locations.values():
        lines.extend(_location(location))
    for entry in document.folders.values():
        lines.extend(_folder(entry))
    return "\n".join(lines) + "\n"


def _all_sections(layer: Layer) -> Iterator[str]:
    for section, fields in groupby(AGENT_FIELDS + FOLDER_FIELDS, key=lambda field: field.section):
        yield ""
        yield f"[{section}]"
        rows = [_setting(field, layer.get(section, {}).get(field.name)) for field in fields]
        yield from _aligned(rows)


def _setting(field: SettingField, value: SettingValue | None) -> tuple[str, str]:
    if value is None:
        return f"# {field.name} = {toml_value(field.plain(field.default))}", field.meaning
    return toml_line(field.name, value), field.meaning


def _aligned(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    width = max(len(line) for line, _ in rows)
    for line, words in rows:
        yield f"{line:<{width}}  # {words}"


def _default_login(login: Login | None) -> Iterator[str]:
    if login is not None:
        yield from ("", "[credentials]", *_login(login))


def _login(login: Login) -> Iterator[str]:
    yield toml_line("user", login.user)
    if login.password_file is not None:
        yield toml_line("password_file", str(login.password_file))


def _location(entry: LocationEntry) -> Iterator[str]:
    yield from ("", "[[location]]", toml_line("name", entry.name), toml_line("path", entry.path))
    if entry.address:
        yield toml_line("address", entry.address)
    if entry.login is not None:
        yield from _login(entry.login)


def _folder(entry: FolderEntry) -> Iterator[str]:
    yield from ("", "[[folder]]", toml_line("path", entry.path))
    if entry.description:
        yield toml_line("description", entry.description)
    if entry.time_zone is not None:
        yield toml_line("time_zone", entry.time_zone)
    if entry.sort_priority is not None:
        yield toml_line("sort_priority", entry.sort_priority)
    if entry.login is not None:
        yield from _login(entry.login)
    for section, fields in groupby(FOLDER_FIELDS, key=lambda field: field.section):
        yield from _overrides(section, fields, entry.settings)


def _overrides(section: str, fields: Iterable[SettingField], layer: Layer) -> Iterator[str]:
    values = layer.get(section, {})
    if values:
        yield f"[folder.{section}]"
        yield from (toml_line(field.name, values[field.name]) for field in fields if field.name in values)
