"""HeadStart jobs as their folder remembers them: `.rollforward/headstart-UID`, one line each, for a lost catalogue.

The line is summed up like those of the ledger. It says all that was saved of the job and of its location; passwords
stand in it sealed, so that only the agent's own key opens them.

Source: docs/ledger.md.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from policies.errors import FormatError, StorageError
from storage.ledger import checked_line, read_line
from storage.own_folder import OWN_NAME, OpenFolder, opened_folder, readable
from storage.publish import PartialFile, storage_errors

VERSION: Final = 1
"""Version of the line that is written, and the only one that is read."""

_LINE_BYTES_MAX: Final = 1 << 20
_UID: Final = re.compile(r"[0-9a-f]{32}")
_PREFIX: Final = "headstart-"


@dataclass(frozen=True, slots=True)
class LocationNote:
    """A location, as `headstart_models.Location` has it."""

    name: str
    kind: str
    path: str
    address: str
    credentials: str | None


@dataclass(frozen=True, slots=True)
class JobNote:
    """A job, as `headstart_models.HeadStartJob` has it, and its volumes, each with the name of its disk's file.

    What a note of an earlier version does not say of tests is that there are none.
    """

    uid: str
    name: str
    subfolder: str
    disk_kind: str
    wrap: str
    lag_s: int
    state: str
    password: str | None
    added_at: str
    location: LocationNote
    disks: tuple[tuple[str, str], ...]
    test_rhythm: str = "never"
    test_starts: bool = False
    test_marker: str | None = None
    test_bus: str = "sata"


def write_job_note(folder: Path, note: JobNote) -> None:
    """Have a folder remember a job.

    Raises:
        StorageError: the folder refuses.

    Crash: the folder remembers what it did before, or this.
    """
    name = _PREFIX + note.uid
    with opened_folder(folder, OWN_NAME, make=True) as own, storage_errors(own.path / name):
        packed = {"is": "headstart", "version": VERSION, **asdict(note)}
        with PartialFile(own.at(name), replacing=True) as partial:
            os.write(partial.fd, checked_line(packed))
            partial.replace()


def remove_job_note(folder: Path, uid: str) -> None:
    """Have a folder forget a job; one that it does not know is forgotten already.

    Raises:
        StorageError: the folder refuses.

    Crash: the folder remembers the job, or not.
    """
    try:
        with opened_folder(folder, OWN_NAME) as own, storage_errors(own.path / (_PREFIX + uid)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_PREFIX + uid, dir_fd=own.fd)
            own.sync()
    except StorageError:
        if folder.is_dir() and not (folder / OWN_NAME).exists():
            return
        raise


def read_job_notes(folder: Path) -> tuple[list[JobNote], list[str]]:
    """Read which jobs a folder remembers.

    Args:
        folder: the managed folder.

    Returns:
        The jobs, by identity; and names of files that cannot be read as such.

    Raises:
        StorageError: the folder refuses.
    """
    with storage_errors(folder):
        if not os.path.lexists(folder / OWN_NAME):
            return [], []
    notes, faults = [], []
    with opened_folder(folder, OWN_NAME) as own:
        with storage_errors(own.path):
            names = [name for name in own.names() if _UID.fullmatch(name.removeprefix(_PREFIX))]
        for name in names:
            if not name.startswith(_PREFIX):
                continue
            try:
                notes.append(_read(own, name))
            except FormatError:
                faults.append(name)
    return notes, faults


def _read(own: OpenFolder, name: str) -> JobNote:
    with readable(own, name) as file:
        packed = None if file is None else read_line(file.read(_LINE_BYTES_MAX))
    if not isinstance(packed, dict) or packed.pop("is", None) != "headstart":
        raise FormatError("the line names no job")
    if packed.pop("version", None) != VERSION:
        raise FormatError("the line is of a later version")
    try:
        location = LocationNote(**packed.pop("location"))
        disks = tuple((str(volume), str(file_name)) for volume, file_name in packed.pop("disks"))
        note = JobNote(**packed, location=location, disks=disks)
    except (KeyError, TypeError, ValueError):
        raise FormatError("the line names no job") from None
    if _PREFIX + str(note.uid) != name or not _is_plain(note):
        raise FormatError("the line names no job")
    return note


def _is_plain(note: JobNote) -> bool:
    words = (
        note.name,
        note.subfolder,
        note.disk_kind,
        note.wrap,
        note.state,
        note.added_at,
        note.location.name,
        note.location.kind,
        note.location.path,
        note.location.address,
        note.test_rhythm,
        note.test_bus,
    )
    perhaps = (note.password, note.location.credentials, note.test_marker)
    return (
        all(isinstance(word, str) for word in words)
        and all(one is None or isinstance(one, str) for one in perhaps)
        and isinstance(note.lag_s, int)
        and isinstance(note.test_starts, bool)
    )
