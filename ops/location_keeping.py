"""What commands change of locations: in one transaction, told in the event log, known to the jobs' folders too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ops.clock import machine_now
from ops.config_document import address_fault, name_fault, plain_address
from ops.folder_place import known_path, refuse_missing
from ops.job_notes import keep_notes
from ops.keeping import Change
from policies.errors import ConfigurationError
from storage.catalog.events import record_event
from storage.catalog.headstart_models import Location, LocationKind
from storage.catalog.locations import (
    all_locations,
    find_location,
    jobs_at,
    location_changed,
    remove_location,
)
from storage.catalog.models import EventKind
from storage.credentials import Credentials, user_in

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ops.catalogue_access import Desk
    from ops.config_document import LocationEntry, Login
    from ops.keeping import Keeping


@dataclass(frozen=True, slots=True)
class LocationWishes:
    """What is wished of a location; None leaves it as it is.

    Attributes:
        path: the folder, or where the share is mounted.
        address: of a share, such as `//nas/disks`; empty for a folder of this machine.
        login: credentials; a user of "off" for none.
    """

    path: Path | None = None
    address: str | None = None
    login: Login | None = None
    no_login: bool = False


class LocationKeeping:
    """Changes locations within one transaction.

    Args:
        desk: clock, and what passwords are sealed with.
        session: of a write transaction.
        who: who wants it.
    """

    def __init__(self, desk: Desk, session: Session, who: str) -> None:
        self._desk, self._session, self._who = desk, session, who

    def add(self, name: str, wishes: LocationWishes) -> list[Change]:
        """Define a location.

        Raises:
            ConfigurationError: the name is taken or no good, or the folder is not there.
        """
        refuse_name(name, "location")
        if find_location(self._session, name) is not None:
            raise ConfigurationError(
                f"there is a location {name!r} already", hint="`rollforward location set` changes it."
            )
        if wishes.path is None:
            raise ConfigurationError("a location needs a path", path="the command line")
        location = Location(
            name=name, kind=LocationKind.LOCAL, path=str(_checked(wishes.path)), address="", credentials=None
        )
        self._session.add(location)
        self._session.flush()
        changes = [Change(_subject(name), "path", "none", location.path), *self._apply(location, wishes)]
        self._note(name, changes)
        return changes

    def set(self, name: str, wishes: LocationWishes) -> list[Change]:
        """Change a location, for all jobs that use it.

        Raises:
            ConfigurationError: there is none of this name, or the folder is not there.
        """
        location = named_location(self._session, name)
        changes = []
        if wishes.path is not None and str(path := _checked(wishes.path)) != location.path:
            changes.append(Change(_subject(name), "path", location.path, str(path)))
            location.path = str(path)
        changes += self._apply(location, wishes)
        if changes:
            location_changed(self._session, location.id)
            for job in jobs_at(self._session, location.id):
                keep_notes(self._session, job)
        self._note(name, changes)
        return changes

    def remove(self, name: str) -> list[Change]:
        """Forget a location that no job uses.

        Raises:
            ConfigurationError: there is none of this name, or jobs use it.
        """
        location = named_location(self._session, name)
        remove_location(self._session, location)
        changes = [Change(_subject(name), "path", location.path, "none")]
        self._note(name, changes)
        return changes

    def apply(self, entry: LocationEntry, keeping: Keeping) -> list[Change]:
        """Make a location what an entry of a file says; it is defined if it is not known.

        Args:
            entry: the location; its folder need not be there at present.
            keeping: seals credentials.
        """
        location, subject = find_location(self._session, entry.name), _subject(entry.name)
        before = (location.path, location.address) if location is not None else ("none", "")
        if location is None:
            location = Location(name=entry.name, kind=LocationKind.LOCAL, path=entry.path, address="")
            self._session.add(location)
        after = (entry.path, entry.address)
        changes = [
            Change(subject, what, old or "none", new or "none")
            for what, old, new in zip(("path", "address"), before, after, strict=True)
            if old != new
        ]
        location.path, location.address = after
        location.kind = LocationKind.SMB if entry.address else LocationKind.LOCAL
        location.credentials, sealed = keeping.sealed(location.credentials, entry.login, subject)
        changes += sealed
        self._session.flush()
        if changes:
            location_changed(self._session, location.id)
            if not keeping.is_dry_run:
                for job in jobs_at(self._session, location.id):
                    keep_notes(self._session, job)
        self._note(entry.name, changes)
        return changes

    def _apply(self, location: Location, wishes: LocationWishes) -> list[Change]:
        subject, changes = _subject(location.name), []
        if wishes.address is not None and wishes.address != location.address:
            fault = address_fault(wishes.address)
            if fault is not None:
                raise ConfigurationError(fault, path="the command line")
            address = plain_address(wishes.address)
            changes.append(Change(subject, "address", location.address or "none", address or "none"))
            location.address = address
            location.kind = LocationKind.SMB if address else LocationKind.LOCAL
        before = "none" if location.credentials is None else user_in(location.credentials)
        if wishes.no_login and location.credentials is not None:
            location.credentials = None
            changes.append(Change(subject, "credentials", before, "none"))
        elif wishes.login is not None:
            login = wishes.login
            wanted = Credentials(login.user, login.password or b"")
            location.credentials = self._desk.seal.seal(wanted, subject)
            after = login.user if before != login.user else f"{login.user}, with another password"
            changes.append(Change(subject, "credentials", before, after))
        return changes

    def _note(self, name: str, changes: list[Change]) -> None:
        if changes:
            record_event(
                self._session,
                EventKind.SETTINGS_CHANGED,
                _subject(name),
                "; ".join(change.words for change in changes),
                at=self._desk.clock(),
                machine_now=machine_now(),
                facts={"by": self._who},
            )


def named_location(session: Session, name: str) -> Location:
    """Find a location by its name.

    Raises:
        ConfigurationError: there is none.
    """
    location = find_location(session, name)
    if location is None:
        known = ", ".join(repr(one.name) for one in all_locations(session))
        raise ConfigurationError(
            f"there is no location {name!r}",
            expected=f"one of {known}" if known else None,
            hint="`rollforward location add NAME PATH` defines one.",
        )
    return location


def refuse_name(name: str, what: str) -> None:
    """Make sure that a name can be one.

    Raises:
        ConfigurationError: it is empty, too long, or has letters that nobody sees.
    """
    fault = name_fault(name)
    if fault is not None:
        raise ConfigurationError(f"{what}: {fault}", path="the command line")


def _checked(path: Path) -> Path:
    found = known_path(path)
    refuse_missing(found)
    return found


def _subject(name: str) -> str:
    return f"location {name}"
