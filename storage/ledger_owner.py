"""Whose folder it is: one line in `.rollforward/owner` names the catalogue whose agent looks after a managed folder.

Two agents that share a catalogue share the folder, and its leases keep them apart. Two with different catalogues would
retire behind each other's backs: the second one is refused, until a person has it take over.

Source: docs/ledger.md.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from policies.errors import BusyError, FormatError, OwnershipError
from storage.ledger import checked_line, read_line
from storage.own_folder import OWN_NAME, OpenFolder, opened_folder, readable
from storage.publish import PartialFile, storage_errors

OWNER_NAME: Final = "owner"
"""Name of the file in `.rollforward/`."""

VERSION: Final = 1
"""Version of the line that is written, and the only one that is read."""

_LINE_BYTES_MAX: Final = 4_096
_TAKE_OVER: Final = "Stop the other agent for good, then take the folder over with --take-over."


@dataclass(frozen=True, slots=True)
class Owner:
    """Who looks after a folder.

    Attributes:
        agent: 32 hexadecimal digits, of the catalogue.
        host: name of the machine that wrote the line.
        since: since when.
        term: counts how often the folder was taken over.
    """

    agent: str
    host: str
    since: datetime
    term: int = 0


class Ownership(StrEnum):
    """How a folder came to be ours: nobody's before, ours already, or taken over."""

    NEW = "new"
    OURS = "ours"
    TAKEN_OVER = "taken over"


def read_owner(folder: Path) -> Owner | None:
    """Tell who looks after a folder.

    Args:
        folder: the managed folder.

    Returns:
        Its owner; None if it has none.

    Raises:
        OwnershipError: there is an owner, and nobody can tell which.
        StorageError: that cannot be read.
    """
    with storage_errors(folder):
        is_there = os.path.lexists(folder / OWN_NAME)
    if not is_there:
        return None
    with opened_folder(folder, OWN_NAME) as own:
        return _read(own)


def become_owner(folder: Path, owner: Owner, *, take_over: bool = False) -> Ownership:
    """Make a folder ours, or see that it is.

    Args:
        folder: the managed folder.
        owner: we; its term is not looked at.
        take_over: whether a folder that is another's becomes ours.

    Returns:
        How it came to be ours.

    Raises:
        OwnershipError: it is another's, or nobody can tell whose.
        StorageError: the folder refuses.

    Crash: the folder is the former owner's, or ours.
    """
    with opened_folder(folder, OWN_NAME, make=True) as own, storage_errors(own.path / OWNER_NAME):
        try:
            known = _read(own)
        except OwnershipError:
            if not take_over:
                raise
            known = Owner("", "", owner.since)
        if known is not None and known.agent == owner.agent:
            return Ownership.OURS
        if known is not None and not take_over:
            raise _another(folder, known)
        term = 0 if known is None else known.term + 1
        _write(own, replace(owner, term=term), replacing=known is not None)
        found = _read(own)
    if found is None or found.agent != owner.agent:
        raise _another(folder, found)
    return Ownership.NEW if known is None else Ownership.TAKEN_OVER


def refuse_another(folder: Path, agent: str, *, take_over: bool = False) -> None:
    """Make sure that a folder is nobody's, or ours, before anything is done with it.

    Args:
        folder: the managed folder.
        agent: who we are.
        take_over: whether it may be another's, too.

    Raises:
        OwnershipError: it is another's, or nobody can tell whose.
        StorageError: that cannot be read.
    """
    if not take_over:
        owner = read_owner(folder)
        if owner is not None and owner.agent != agent:
            raise _another(folder, owner)


def give_up(folder: Path, agent: str) -> bool:
    """Leave a folder to whoever comes next, if it is ours.

    Args:
        folder: the managed folder.
        agent: who we are.

    Returns:
        Whether it was ours.

    Raises:
        OwnershipError: nobody can tell whose it is.
        StorageError: the folder refuses.

    Crash: it is still ours, or nobody's.
    """
    owner = read_owner(folder)
    if owner is None or owner.agent != agent:
        return False
    with opened_folder(folder, OWN_NAME) as own, storage_errors(own.path / OWNER_NAME):
        os.unlink(OWNER_NAME, dir_fd=own.fd)
        own.sync()
    return True


def _read(own: OpenFolder) -> Owner | None:
    path = own.path / OWNER_NAME
    try:
        with readable(own, OWNER_NAME) as file:
            return None if file is None else _unpack(read_line(file.read(_LINE_BYTES_MAX)))
    except FormatError as error:
        raise OwnershipError(
            f"nobody can tell whose folder this is: {error.message}", path=str(path), hint=_TAKE_OVER
        ) from error


def _write(own: OpenFolder, owner: Owner, *, replacing: bool) -> None:
    packed = {
        "is": OWNER_NAME,
        "version": VERSION,
        "agent": owner.agent,
        "host": owner.host,
        "since": owner.since.astimezone(UTC).isoformat(),
        "term": owner.term,
    }
    try:
        with PartialFile(own.at(OWNER_NAME), replacing=replacing) as partial:
            os.write(partial.fd, checked_line(packed))
            if replacing:
                partial.replace()
            else:
                partial.publish()
    except BusyError:
        return  # another agent was quicker: whoever reads next sees who


def _unpack(packed: object) -> Owner:
    if not isinstance(packed, dict) or packed.get("is") != OWNER_NAME:
        raise FormatError("the line names no owner")
    if packed.get("version") != VERSION:
        raise FormatError("the line is of a later version")
    agent, host, since, term = (packed.get(name) for name in ("agent", "host", "since", "term"))
    if not isinstance(agent, str) or not isinstance(host, str) or not isinstance(term, int):
        raise FormatError("the line names no owner")
    try:
        moment = datetime.fromisoformat(str(since))
    except ValueError:
        raise FormatError("the line has no good time") from None
    return Owner(agent, host, moment, term)


def _another(folder: Path, owner: Owner | None) -> OwnershipError:
    if owner is None:
        return OwnershipError("became another agent's just now", path=str(folder), hint=_TAKE_OVER)
    return OwnershipError(
        f"is looked after by another agent, of {owner.host or 'an unknown machine'}, since {owner.since:%Y-%m-%d}",
        path=str(folder),
        hint=_TAKE_OVER,
    )
