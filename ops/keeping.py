"""What commands change of folders and settings: in one transaction, told in the event log, the same done twice is once.

A folder is described by an entry, as in the file of settings. Applying an entry writes what differs from it, and says
what that was.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ops.clock import machine_now
from ops.config_document import ConfigDocument, FolderEntry, LocationEntry, Login
from ops.folder_place import answered, known_path, refuse_missing, refuse_overlap
from ops.herald_config import (
    HeraldLayer,
    herald_changes,
    known_rest,
    read_herald_layer,
    write_herald,
)
from ops.notify.settings import herald_file
from ops.setting_rows import Layer, SettingRow, agent_rows, folder_rows, value_words
from policies.errors import ConfigurationError, OwnershipError, StorageError
from storage.catalog.agents import agent_of, agent_policy, set_agent_settings
from storage.catalog.events import record_event
from storage.catalog.folders import (
    NO_PRIORITY,
    FolderTraits,
    add_folder,
    all_folders,
    describe_folder,
    find_folder,
    remove_folder,
    set_folder_settings,
)
from storage.catalog.headstart import jobs_of_folder
from storage.catalog.locations import all_locations
from storage.catalog.memory_models import Agent
from storage.catalog.models import EventKind, Folder
from storage.credentials import Credentials, user_in
from storage.ledger_owner import give_up, read_owner

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ops.catalogue_access import Desk

AGENT_PLACE = "the agent"
"""What the agent's own credentials are bound to; no folder is called so."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that changes.

    Attributes:
        subject: a folder's path, or "the agent".
        what: the setting or field.
        before: its value, in words.
        after: its value from then on, in words.
    """

    subject: str
    what: str
    before: str
    after: str

    @property
    def words(self) -> str:
        """Say what changes."""
        return f"{self.what}: {self.before} → {self.after}"


class Keeping:
    """Changes folders and settings within one transaction.

    Args:
        desk: clock, settings, and what passwords are sealed with.
        session: of a write transaction.
        who: who wants it.
        dry_run: whether the transaction will be given up: then nothing outside of it is touched either.
    """

    def __init__(self, desk: Desk, session: Session, who: str, *, dry_run: bool = False) -> None:
        self._desk = desk
        self._session = session
        self._who = who
        self._dry_run = dry_run
        self.now: datetime = desk.clock()
        self.machine_now = machine_now()

    @property
    def is_dry_run(self) -> bool:
        """Whether the transaction will be given up."""
        return self._dry_run

    def document(self) -> ConfigDocument:
        """Give all that is told at present, as a file would."""
        agent = self._session.get(Agent, 1)
        return ConfigDocument(
            settings={} if agent is None else agent.settings,
            login=None if agent is None else _login_of(agent.credentials),
            folders={folder.path: entry_of(folder) for folder in all_folders(self._session)},
            locations={
                one.name: LocationEntry(one.name, one.path, one.address, _login_of(one.credentials))
                for one in all_locations(self._session)
            },
        )

    def set_agent(self, layer: Layer) -> list[Change]:
        """Replace what is set for the agent.

        Raises:
            ConfigurationError: there is no such setting, or a value is not allowed.
        """
        agent = agent_of(self._session, now=self.now)
        changes = _changed_rows(AGENT_PLACE, agent_rows(agent.settings), agent_rows(layer))
        set_agent_settings(self._session, layer, now=self.now)
        self._note(AGENT_PLACE, changes)
        return changes

    def set_agent_login(self, login: Login | None) -> list[Change]:
        """Replace the agent's default credentials.

        Raises:
            ConfigurationError: a password is needed, or the file that it should be in cannot be used.
        """
        agent = agent_of(self._session, now=self.now)
        agent.credentials, changes = self.sealed(agent.credentials, login, AGENT_PLACE)
        self._note(AGENT_PLACE, changes)
        return changes

    def add(
        self, entry: FolderEntry, *, may_be_missing: bool = False, take_over: bool = False
    ) -> list[Change]:
        """Manage a folder from now on.

        Args:
            entry: the folder; its path as `folder_place.known_path` gives it.
            may_be_missing: whether it need not be there at present.
            take_over: whether it may be another agent's.

        Raises:
            ConfigurationError: it is not there, is managed already, lies in a managed folder or holds one; or what is
                said of it cannot be.
            OwnershipError: the agent of another catalogue looks after it.
            StorageError: it cannot be read.
        """
        path = Path(entry.path)
        if not may_be_missing:
            refuse_missing(path)
            if not take_over:
                self._refuse_foreign(path)
        refuse_overlap(path, [Path(folder.path) for folder in all_folders(self._session)])
        zone = entry.time_zone or self._desk.settings.time_zone
        folder = add_folder(self._session, path, zone, now=self.now, machine_now=self.machine_now)
        return [Change(entry.path, "managed", "no", "yes"), *self.apply(folder, entry)]

    def apply(self, folder: Folder, entry: FolderEntry) -> list[Change]:
        """Make a managed folder what an entry says; its time zone stays where the entry names none.

        Raises:
            ConfigurationError: what is said of it cannot be.
        """
        before = entry_of(folder)
        zone = entry.time_zone or folder.time_zone
        changes = [
            Change(folder.path, what, old, new)
            for what, old, new in (
                ("description", _quoted(before.description), _quoted(entry.description)),
                ("time_zone", folder.time_zone, zone),
                ("sort_priority", _or_off(before.sort_priority), _or_off(entry.sort_priority)),
            )
            if old != new
        ]
        priority = NO_PRIORITY if entry.sort_priority is None else entry.sort_priority
        describe_folder(self._session, folder, FolderTraits(zone, entry.description, priority))
        folder.credentials, sealed = self.sealed(folder.credentials, entry.login, folder.path)
        agent = agent_policy(self._session)
        rows = folder_rows(folder.settings, agent), folder_rows(entry.settings, agent)
        changes += sealed + _changed_rows(folder.path, *rows)
        set_folder_settings(self._session, folder, dict(entry.settings))
        self._note(folder.path, changes, folder.id)
        return changes

    def remove(self, folder: Folder) -> list[Change]:
        """Stop managing a folder; its files stay.

        Raises:
            ConfigurationError: a HeadStart job uses it.

        Crash: it is managed still, and nobody's until the agent looks at it again; or it is managed no longer.
        """
        path = folder.path
        jobs = jobs_of_folder(self._session, folder.id)
        if jobs:
            named = ", ".join(repr(job.name) for job in jobs)
            raise ConfigurationError(
                f"is used by HeadStart {'job' if len(jobs) == 1 else 'jobs'} {named}",
                path=path,
                hint="Delete these first: rollforward hsr delete.",
            )
        if not self._dry_run:
            from sqlalchemy import event

            self._give_up(Path(path))
            uid = agent_of(self._session, now=self.now).uid
            # a scan that ran meanwhile may have made it ours again
            event.listen(self._session, "after_commit", lambda _: _leave(Path(path), uid), once=True)
        remove_folder(self._session, folder, now=self.now, machine_now=self.machine_now)
        self._session.flush()
        return [Change(path, "managed", "yes", "no")]

    def apply_document(self, document: ConfigDocument, *, prune: bool) -> list[Change]:
        """Make settings and folders what a document says.

        Args:
            document: what is to be; of folders, those that it names. They need not be there at present.
            prune: whether folders that it does not name are to be managed no longer.

        Raises:
            ConfigurationError: it says what cannot be; then the transaction must not be committed.
            StorageError: `herald.toml` cannot be written; likewise.
        """
        from ops.location_keeping import LocationKeeping  # late: it takes Change from here

        changes = self.set_agent(dict(document.settings)) + self.set_agent_login(document.login)
        known = {folder.path: folder for folder in all_folders(self._session)}
        wanted: dict[str, FolderEntry] = {}
        for path, entry in document.folders.items():
            kept = _kept_path(path, known)
            if kept in wanted:
                raise ConfigurationError(f"is in the file twice, as {wanted[kept].path} too", path=path)
            wanted[kept] = entry
        if prune:
            for path in sorted(known.keys() - wanted.keys()):
                changes += self.remove(known[path])
        for path, entry in wanted.items():
            if path in known:
                changes += self.apply(known[path], entry)
            else:
                changes += self.add(replace(entry, path=path), may_be_missing=True)
        locations = LocationKeeping(self._desk, self._session, self._who)
        for location in document.locations.values():
            changes += locations.apply(location, self)
        return changes + self._set_herald(document.herald)

    def _set_herald(self, wanted: HeraldLayer) -> list[Change]:
        """Have `herald.toml` say what a document says; last of all, for it is no part of the transaction."""
        if not wanted:
            return []
        settings = self._desk.settings
        path = herald_file(settings.state_dir)
        told: list[tuple[str, str, str]] = []
        try:
            before = read_herald_layer(path, settings.time_zone)
        except ConfigurationError as error:
            before, told = {}, [(path.name, error.message, "written anew")]
        after = known_rest(wanted, before, "the file of settings")
        changes = [Change(AGENT_PLACE, *one) for one in [*told, *herald_changes(before, after)]]
        self._note(AGENT_PLACE, changes)
        if changes and not self._dry_run:
            self._session.flush()
            write_herald(path, after)
        return changes

    def _refuse_foreign(self, path: Path) -> None:
        owner = read_owner(path)
        if owner is not None and owner.agent != agent_of(self._session, now=self.now).uid:
            raise OwnershipError(
                f"is looked after by another agent, of {owner.host or 'an unknown machine'}",
                path=str(path),
                hint="Stop the other agent for good, then take the folder over with --take-over.",
            )

    def _give_up(self, path: Path) -> None:
        """Leave a folder to whoever comes next; where that is not possible, the next one has to take it over."""
        _leave(path, agent_of(self._session, now=self.now).uid)

    def sealed(self, stored: str | None, login: Login | None, place: str) -> tuple[str | None, list[Change]]:
        """Give the credentials to be stored, and what changes by it.

        Args:
            stored: what is stored.
            login: what is to be.
            place: what they are for, and bound to.

        Raises:
            ConfigurationError: a password is needed, or the file that it should be in cannot be used.
        """
        from ops.passwords import read_password

        known = _known_user(stored)
        if login is None:
            return None, [Change(place, "credentials", known, "none")] if stored is not None else []
        password = login.password
        if password is None and login.password_file is not None:
            password = read_password(login.password_file)
        if password is None:
            if known != login.user:
                raise ConfigurationError(
                    f"the password of user {login.user!r} is not known",
                    path=place,
                    hint="Name a file that holds it, with password_file or --password-file.",
                )
            return stored, []
        if stored is not None and self._opens_as(stored, place, login.user, password):
            return stored, []
        after = login.user if known != login.user else f"{login.user}, with another password"
        wanted = Credentials(login.user, password)
        sealed = stored if self._dry_run else self._desk.seal.seal(wanted, place)
        return sealed, [Change(place, "credentials", known, after)]

    def _opens_as(self, stored: str, place: str, user: str, password: bytes) -> bool:
        try:
            return self._desk.seal.open(stored, place) == Credentials(user, password)
        except ConfigurationError:
            return False  # sealed with a key that is gone: sealed anew

    def _note(self, subject: str, changes: list[Change], folder_id: int | None = None) -> None:
        if changes:
            record_event(
                self._session,
                EventKind.SETTINGS_CHANGED,
                subject,
                "; ".join(change.words for change in changes),
                at=self.now,
                machine_now=self.machine_now,
                folder_id=folder_id,
                facts={"by": self._who},
            )


def entry_of(folder: Folder) -> FolderEntry:
    """Describe a managed folder as it is."""
    return FolderEntry(
        path=folder.path,
        description=folder.description,
        time_zone=folder.time_zone,
        sort_priority=folder.sort_priority,
        login=_login_of(folder.credentials),
        settings=folder.settings,
    )


def find_managed(session: Session, path: Path) -> Folder:
    """Find a managed folder by a path that a person gave.

    Args:
        session: any session.
        path: as it was typed.

    Raises:
        ConfigurationError: it is not managed.
    """
    folder = find_folder(session, path.absolute()) or find_folder(session, known_path(path))
    if folder is None:
        raise ConfigurationError(
            "is no managed folder",
            path=str(known_path(path)),
            hint="`rollforward folder list` shows those that are; `rollforward folder add` takes it up.",
        )
    return folder


def _leave(path: Path, uid: str) -> None:
    with suppress(StorageError, OwnershipError, OSError):
        answered(lambda: give_up(path, uid), path)


def _changed_rows(
    subject: str, before: tuple[SettingRow, ...], after: tuple[SettingRow, ...]
) -> list[Change]:
    return [
        Change(subject, new.field.key, _row_words(old), _row_words(new))
        for old, new in zip(before, after, strict=True)
        if (old.is_set, old.value) != (new.is_set, new.value)
    ]


def _row_words(row: SettingRow) -> str:
    return value_words(row.value) if row.is_set else f"{value_words(row.value)} (not set)"


def _kept_path(path: str, known: Collection[str]) -> str:
    """Give the path under which a folder is, or is to be, known."""
    return path if path in known else str(known_path(Path(path)))


def _login_of(credentials: str | None) -> Login | None:
    return None if credentials is None else Login(user_in(credentials))


def _known_user(stored: str | None) -> str:
    return "none" if stored is None else user_in(stored)


def _quoted(words: str) -> str:
    return f'"{words}"' if words else "none"


def _or_off(number: int | None) -> str:
    return "off" if number is None else str(number)
