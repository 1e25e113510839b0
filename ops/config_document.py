"""The one file that says all that the agent is told: its settings, its folders, theirs.

    [retention]                     what holds for all folders, and the agent's own settings
    keep_daily_days = 30

    [mail]                          who is told of trouble: the sections of herald.toml
    server = "smtp.example.org"

    [credentials]                   what folders are opened with that name no credentials of their own
    user = "backup"
    password_file = "/etc/rollforward/nas"

    [[location]]                    one for each place for HeadStart disks
    name = "nas"
    path = "/mnt/nas"
    address = "//nas/disks"

    [[folder]]                      one for each managed folder
    path = "/srv/images"
    description = "The accountant's server"
    time_zone = "Europe/Berlin"
    sort_priority = 10

    [folder.retention]              what differs for it
    keep_daily_days = 60

Whatever is wrong in it is named with its line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from ops.herald_config import HERALD_FIELDS, HeraldLayer, check_herald_section, plain_herald
from ops.setting_rows import Layer, same_layer
from ops.settings import checked_zone
from ops.toml_text import line_of, plain_value
from policies.errors import ConfigurationError
from policies.folder_policy import AGENT_FIELDS, FOLDER_FIELDS, parse_agent_policy, parse_folder_policy

SORT_PRIORITY_MAX: Final = 255
"""Sort priorities go from 0 to here."""

NAME_MAX: Final = 100
"""Longest name of a location or job, in letters."""

DESCRIPTION_MAX: Final = 500
"""Longest description, in letters."""

_FILE_BYTES_MAX: Final = 64 << 20
_FOLDER_SECTIONS: Final = tuple(dict.fromkeys(one.section for one in FOLDER_FIELDS))
_SECTIONS: Final = tuple(dict.fromkeys(one.section for one in AGENT_FIELDS + FOLDER_FIELDS))
_LOGIN_KEYS: Final = ("user", "password_file")
_LOCATION_KEYS: Final = ("name", "path", "address", *_LOGIN_KEYS)
_FOLDER_KEYS: Final = ("path", "description", "time_zone", "sort_priority", *_LOGIN_KEYS)


@dataclass(frozen=True, slots=True)
class Login:
    """Credentials as a file names them.

    Attributes:
        user: whose they are.
        password_file: where the password is; None to keep the one that is stored.
        password: the password, where it was typed in.
    """

    user: str
    password_file: Path | None = None
    password: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """A managed folder as a file describes it.

    Attributes:
        path: absolute path.
        description: a person's words on it.
        time_zone: IANA name; None for the agent's.
        sort_priority: 0 to 255; None where it has none.
        login: credentials of its own; None where it has none.
        settings: what is set for it.
    """

    path: str
    description: str = ""
    time_zone: str | None = None
    sort_priority: int | None = None
    login: Login | None = None
    settings: Layer = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LocationEntry:
    """A place for HeadStart disks as a file describes it.

    Attributes:
        name: what jobs call it.
        path: absolute path.
        address: of a share that is mounted there; empty for a folder of this machine.
        login: what the share is opened with; None for nothing.
    """

    name: str
    path: str
    address: str = ""
    login: Login | None = None


@dataclass(frozen=True, slots=True)
class ConfigDocument:
    """All that a file says.

    Attributes:
        settings: what is set for the agent and for all its folders.
        login: the agent's default credentials.
        folders: the managed folders, by path.
        herald: who is told of trouble, and where programs look; nothing where the file has no such section.
        locations: the places for HeadStart disks, by name.
    """

    settings: Layer = field(default_factory=dict)
    login: Login | None = None
    folders: Mapping[str, FolderEntry] = field(default_factory=dict)
    herald: HeraldLayer = field(default_factory=dict)
    locations: Mapping[str, LocationEntry] = field(default_factory=dict)


def read_config(path: Path) -> ConfigDocument:
    """Read a file.

    Args:
        path: the file.

    Raises:
        ConfigurationError: it cannot be read, is no TOML, or says what cannot be; line, field and value are named.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_FILE_BYTES_MAX + 1)
        if len(content) > _FILE_BYTES_MAX:
            raise ConfigurationError("is too large for a file of settings", path=str(path))
        return parse_config(content.decode(), str(path))
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", path=str(path)) from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigurationError(f"line {line}: is not UTF-8", path=str(path)) from error


def parse_config(text: str, where: str) -> ConfigDocument:
    """Read what a file holds.

    Args:
        text: its content.
        where: its name, for errors.

    Raises:
        ConfigurationError: as of `read_config`.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"is no TOML: {error}", path=where) from error
    except RecursionError as error:
        raise ConfigurationError("is no file of settings: it is nested too deeply", path=where) from error
    return _Reading(text, where).document(document)


def priority_fault(value: object) -> str | None:
    """Say why a value is no sort priority; None if it is one."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= SORT_PRIORITY_MAX:
        return None
    return f"sort_priority cannot be {value!r}: it takes a whole number from 0 to {SORT_PRIORITY_MAX}"


def description_fault(words: str) -> str | None:
    """Say why words are no description; None if they are one."""
    if len(words) <= DESCRIPTION_MAX:
        return None
    return f"description has {len(words):,} letters: it takes {DESCRIPTION_MAX} at most"


def name_fault(name: str) -> str | None:
    """Say why words are no name of a location or job; None if they are one."""
    if name.strip() and name == name.strip() and len(name) <= NAME_MAX and name.isprintable():
        return None
    return f"name cannot be {name!r}: it takes 1 to {NAME_MAX} letters that can be seen, no space at an end"


def plain_address(address: str) -> str:
    """Return the address of a share with slashes, as it is kept."""
    plain = address.replace("\\", "/").rstrip("/")
    return plain[4:] if plain[:6].lower() == "smb://" else plain


def address_fault(address: str) -> str | None:
    """Say why words are no address of a share; None if they are one, or nothing."""
    plain = plain_address(address)
    if "@" in plain:  # it is not repeated: a password may stand in it
        return (
            "address cannot have an @ in it: a user and a password are said by themselves, not in an address"
        )
    is_share = plain.startswith("//") and plain.count("/") >= 3 and "///" not in plain and plain.isprintable()
    return None if is_share or not plain else f"address cannot be {address!r}: it takes //SERVER/SHARE"


def _path_fault(path: str) -> str | None:
    return None if PurePosixPath(path).is_absolute() else f"path {path!r} is not absolute"


class _Reading:
    """Reads one file; knows where its fields stand."""

    def __init__(self, text: str, where: str) -> None:
        self._text = text
        self._where = where

    def document(self, document: Mapping[str, object]) -> ConfigDocument:
        layer: Layer = {}
        herald: dict[str, object] = {}
        for name, value in document.items():
            if name in _SECTIONS:
                layer |= self._section(name, value, (), for_agent=True)
            elif name in HERALD_FIELDS:
                herald[name] = self._herald(name, value)
            elif name not in ("credentials", "folder", "location"):
                known = (*_SECTIONS, *HERALD_FIELDS, "credentials", "[location]", "[folder]")
                raise self.wrong(f"there is no section {name!r}", (name,), f"There are: {', '.join(known)}.")
        folders = self._folders(document.get("folder", []))
        locations = self._locations(document.get("location", []))
        return ConfigDocument(layer, self._default_login(document), folders, plain_herald(herald), locations)

    def _herald(self, name: str, held: object) -> Mapping[str, object]:
        table = self._table(held, (name,))
        try:
            check_herald_section(name, table, self._where)
        except ConfigurationError as error:
            said = re.search(rf"\b{name}\.([a-z_]+)", error.message)
            key = said[1] if said is not None and said[1] in table else None
            raise self.wrong(error.message, (name, key) if key else (name,), error.hint) from error
        return table

    def _default_login(self, document: Mapping[str, object]) -> Login | None:
        if "credentials" not in document:
            return None
        held = self._table(document["credentials"], ("credentials",))
        for name in held:
            if name not in _LOGIN_KEYS:
                known = " and ".join(_LOGIN_KEYS)
                raise self.wrong(f"there is no field {name!r}", ("credentials", name), f"There are {known}.")
        return self._login(held, ("credentials",))

    def _locations(self, held: object) -> dict[str, LocationEntry]:
        if not isinstance(held, list):
            raise self.wrong("locations are written as [[location]], one after the other", ("location",))
        found: dict[str, LocationEntry] = {}
        for index, one in enumerate(held):
            at = ("location", index)
            table = self._table(one, at)
            for key in table:
                if key not in _LOCATION_KEYS:
                    known = ", ".join(_LOCATION_KEYS)
                    raise self.wrong(f"a location has no field {key!r}", (*at, key), f"There are: {known}.")
            name, path, address = (self._words(table, at, key) for key in ("name", "path", "address"))
            for key, fault in (
                ("name", name_fault(name)),
                ("path", _path_fault(path)),
                ("address", address_fault(address)),
            ):
                if fault is not None:
                    raise self.wrong(fault, (*at, key) if key in table else at)
            if name in found:
                raise self.wrong(f"location {name!r} is there twice", (*at, "name"))
            entry = LocationEntry(
                name, str(PurePosixPath(path)), plain_address(address), self._login(table, at)
            )
            found[name] = entry
        return found

    def _folders(self, held: object) -> dict[str, FolderEntry]:
        if not isinstance(held, list):
            raise self.wrong("folders are written as [[folder]], one after the other", ("folder",))
        found: dict[str, FolderEntry] = {}
        for index, one in enumerate(held):
            entry = self._folder(self._table(one, ("folder", index)), ("folder", index))
            if entry.path in found:
                raise self.wrong(f"folder {entry.path!r} is there twice", ("folder", index, "path"))
            found[entry.path] = entry
        return found

    def _folder(self, held: Mapping[str, object], at: tuple[str | int, ...]) -> FolderEntry:
        layer: Layer = {}
        for name, value in held.items():
            if name in _FOLDER_SECTIONS:
                layer |= self._section(name, value, at, for_agent=False)
            elif name not in _FOLDER_KEYS:
                known = ", ".join((*_FOLDER_KEYS, *_FOLDER_SECTIONS))
                raise self.wrong(f"a folder has no field {name!r}", (*at, name), f"There are: {known}.")
        path = self._words(held, at, "path", required=True)
        if not PurePosixPath(path).is_absolute():
            raise self.wrong(f"path {path!r} is not absolute", (*at, "path"), "Begin it with a slash.")
        return FolderEntry(
            path=str(PurePosixPath(path)),
            description=self._description(held, at),
            time_zone=self._zone(held, at),
            sort_priority=self._priority(held, at),
            login=self._login(held, at),
            settings=layer,
        )

    def _section(self, name: str, held: object, at: tuple[str | int, ...], *, for_agent: bool) -> Layer:
        """Read a section, each setting by itself, so that an error can name its line."""
        layer: Layer = {}
        for key, value in self._table(held, (*at, name)).items():
            one = {name: {key: plain_value(value)}}
            try:
                if for_agent:
                    read = same_layer(parse_agent_policy(one, where=self._where), _as_layer(one))
                else:
                    read = same_layer(parse_folder_policy(one, where=self._where), _as_layer(one))
            except ConfigurationError as error:
                raise self.wrong(error.message, (*at, name, key), error.hint) from error
            layer.setdefault(name, {}).update(read[name])
        return layer

    def _login(self, held: Mapping[str, object], at: tuple[str | int, ...]) -> Login | None:
        user = self._words(held, at, "user")
        file = self._words(held, at, "password_file")
        if file and not user:
            raise self.wrong("password_file stands there without a user", (*at, "password_file"))
        if file and not PurePosixPath(file).is_absolute():
            raise self.wrong(f"password_file {file!r} is not absolute", (*at, "password_file"))
        return Login(user, Path(file) if file else None) if user else None

    def _zone(self, held: Mapping[str, object], at: tuple[str | int, ...]) -> str | None:
        name = self._words(held, at, "time_zone")
        try:
            return checked_zone(name) if name else None
        except ConfigurationError as error:
            raise self.wrong(f"time_zone cannot be {name!r}", (*at, "time_zone"), error.hint) from error

    def _priority(self, held: Mapping[str, object], at: tuple[str | int, ...]) -> int | None:
        value = held.get("sort_priority")
        if value is None:
            return None
        fault = priority_fault(value)
        if fault is not None or not isinstance(value, int):
            raise self.wrong(fault or "", (*at, "sort_priority"))
        return value

    def _description(self, held: Mapping[str, object], at: tuple[str | int, ...]) -> str:
        words = self._words(held, at, "description")
        fault = description_fault(words)
        if fault is not None:
            raise self.wrong(fault, (*at, "description"))
        return words

    def _words(
        self, held: Mapping[str, object], at: tuple[str | int, ...], name: str, *, required: bool = False
    ) -> str:
        value = held.get(name, "")
        if not isinstance(value, str) or "\0" in value:
            raise self.wrong(f"{name} cannot be {value!r}: it takes text", (*at, name))
        if required and not value:
            raise self.wrong(f"a folder needs a {name}", (*at, name) if name in held else at)
        return value

    def _table(self, held: object, at: tuple[str | int, ...]) -> Mapping[str, object]:
        if not isinstance(held, Mapping):
            raise self.wrong(f"{at[-1]} is a section of settings, not {held!r}", at)
        return held

    def wrong(self, words: str, at: tuple[str | int, ...], hint: str | None = None) -> ConfigurationError:
        """Return the error that names what is wrong and the line on which it stands."""
        line = line_of(self._text, at)
        place = "" if line is None else f"line {line}: "
        return ConfigurationError(f"{place}{words}", path=self._where, hint=hint)


def _as_layer(held: Mapping[str, Mapping[str, object]]) -> Layer:
    """Give the names that a layer sets; their values are read from the policy that it makes."""
    return {section: dict.fromkeys(values, False) for section, values in held.items()}
