"""The ledger of a managed folder, `.rollforward/ledger`: what its files cannot tell, for when the catalogue is lost.

A text file, a line an entry: sixteen hexadecimal digits that sum the rest of the line up, a space, a JSON object. Lines
are appended and synced; now and then the file is written anew without what is over. A line that is torn, damaged or
foreign is passed over and counted. See docs/ledger.md.

Source: docs/ledger.md.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

from policies.errors import BusyError, FormatError, StorageError, UnsupportedVersionError
from storage.ledger_entries import Entry, LedgerState, pack_entry, unpack_entry
from storage.locking import lock_file
from storage.own_folder import OWN_NAME, UNLINKABLE, OpenFolder, opened_folder, readable
from storage.publish import PartialFile, storage_errors

LEDGER_NAME: Final = "ledger"
"""Name of the ledger in `.rollforward/`."""

DAMAGED_NAME: Final = "ledger.damaged"
"""The last ledger that held damaged lines, kept for a person to look at."""

VERSION: Final = 1
"""Version of the ledger that is written, and the latest that is read."""

LINE_BYTES_MAX: Final = 16 << 20
"""A longer line is passed over; the set with the most parts has a shorter one."""

LEDGER_BYTES_MAX: Final = 2 << 30
"""A larger file is no ledger of ours."""

_DIGEST_DIGITS: Final = 16
_SMALL_BYTES: Final = 1 << 20
_GROWTH: Final = 3
_LOCK_NAME: Final = "ledger.lock"
_LOCK_WAIT_S: Final = 30.0
_LOCK_POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class LedgerReading:
    """What was found in a ledger.

    Attributes:
        state: all that its good lines say.
        exists: whether there is one.
        faults: how many lines were torn, damaged or foreign.
    """

    state: LedgerState = field(default_factory=LedgerState)
    exists: bool = False
    faults: int = 0


def read_ledger(folder: Path) -> LedgerReading:
    """Read a folder's ledger.

    Args:
        folder: the managed folder.

    Returns:
        What it says; a folder without one has an empty reading.

    Raises:
        StorageError: it cannot be read, or the way to it is a link.
        UnsupportedVersionError: it is of a later version.
        FormatError: it is no file that could be a ledger.
    """
    with storage_errors(folder):
        is_there = os.path.lexists(folder / OWN_NAME)
    if not is_there:
        return LedgerReading()
    with opened_folder(folder, OWN_NAME) as own:
        return _read(own)


def append_entries(folder: Path, entries: Sequence[Entry], *, now: datetime) -> None:
    """Write entries into a folder's ledger, durably; write it anew, without what is over, once it has grown much.

    Args:
        folder: the managed folder.
        entries: what is to stand there; nothing is done without any.
        now: calendar time, which says what is over.

    Raises:
        StorageError: the folder refuses, or the way to the ledger is a link.
        UnsupportedVersionError: the ledger is of a later version, and is left as it is.
        BusyError: another process has been writing it for long.

    Crash: leaves the ledger as it was, or with some of the entries; a torn line is passed over.
    """
    if not entries:
        return
    with (
        opened_folder(folder, OWN_NAME, make=True) as own,
        _locked(own),
        storage_errors(own.path / LEDGER_NAME),
    ):
        began_bytes = _began_bytes(own)
        size = _append(
            own, [checked_line(pack_entry(entry)) for entry in entries], is_new=began_bytes is None
        )
        if size > max(_SMALL_BYTES, _GROWTH * (began_bytes or 0)):
            _write_anew(own, now)


def rewrite_ledger(folder: Path, now: datetime) -> None:
    """Write a folder's ledger anew: without what is over, and without damaged lines, which are kept beside it.

    Args:
        folder: the managed folder.
        now: calendar time.

    Raises:
        StorageError: the folder refuses, or the way to the ledger is a link.
        UnsupportedVersionError: the ledger is of a later version, and is left as it is.
        BusyError: another process has been writing it for long.

    Crash: the ledger is the old one or the new one, whole.
    """
    with (
        opened_folder(folder, OWN_NAME, make=True) as own,
        _locked(own),
        storage_errors(own.path / LEDGER_NAME),
    ):
        _write_anew(own, now)


def checked_line(packed: object) -> bytes:
    """Write JSON values as a line that can be told from a damaged one."""
    text = json.dumps(packed, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    return _digest(text) + b" " + text + b"\n"


def read_line(line: bytes) -> object:
    """Read a line that `checked_line` wrote.

    Raises:
        FormatError: it is torn, damaged or foreign.
    """
    digest, space, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or not space or digest != _digest(text):
        raise FormatError("a line is torn or damaged")
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        raise FormatError("a line holds no JSON") from None
    return found


def _read(own: OpenFolder) -> LedgerReading:
    path = own.path / LEDGER_NAME
    state, faults = LedgerState(), 0
    with _opened_ledger(own) as file:
        if file is None:
            return LedgerReading()
        for line in _lines(file):
            try:
                packed = read_line(line)
                if not _is_head(packed, path):
                    state.add(unpack_entry(packed))
            except UnsupportedVersionError:
                raise
            except FormatError:
                faults += 1
    return LedgerReading(state, exists=True, faults=faults)


@contextlib.contextmanager
def _opened_ledger(own: OpenFolder) -> Iterator[BinaryIO | None]:
    """Open the ledger to be read; None if there is none."""
    path = own.path / LEDGER_NAME
    with readable(own, LEDGER_NAME) as file:
        if file is not None and os.fstat(file.fileno()).st_size > LEDGER_BYTES_MAX:
            raise FormatError("is too large to be a ledger", path=str(path))
        yield file


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Give the lines; what is longer than a line may be comes in pieces, each of them damaged."""
    while line := file.readline(LINE_BYTES_MAX):
        yield line


def _is_head(packed: object, path: Path) -> bool:
    """Tell whether a line is the ledger's head.

    Raises:
        UnsupportedVersionError: it is that of a later version.
    """
    if not isinstance(packed, dict) or packed.get("is") != LEDGER_NAME:
        return False
    version = packed.get("version")
    if version != VERSION:
        raise UnsupportedVersionError(
            "the ledger is of a later version, and is left as it is",
            path=str(path),
            expected=VERSION,
            actual=str(version)[:20],
            hint="Look after this folder with the version of rollforward that wrote it, or a later one.",
        )
    return True


def _began_bytes(own: OpenFolder) -> int | None:
    """Tell how large the ledger was when it was last written anew; None if there is none."""
    with _opened_ledger(own) as file:
        if file is None:
            return None
        try:
            head = read_line(file.readline(LINE_BYTES_MAX))
        except FormatError:
            return 0
    is_head = _is_head(head, own.path / LEDGER_NAME)
    began_bytes = head.get("began_bytes") if is_head and isinstance(head, dict) else 0
    return began_bytes if isinstance(began_bytes, int) else 0


def _append(own: OpenFolder, lines: Sequence[bytes], *, is_new: bool) -> int:
    """Append lines and sync them; return how large the ledger is then."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(LEDGER_NAME, flags, 0o640, dir_fd=own.fd)
    try:
        size = os.fstat(fd).st_size
        pieces = list(lines)
        if size == 0:
            pieces.insert(0, _head(0))
        elif os.pread(fd, 1, size - 1) != b"\n":
            pieces.insert(0, b"\n")  # a line was torn: it stays so, and ends here
        try:
            _write_all(fd, b"".join(pieces))
        except OSError:
            os.ftruncate(fd, size)
            raise
        os.fsync(fd)
        if is_new or size == 0:
            own.sync()
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def _write_anew(own: OpenFolder, now: datetime) -> None:
    reading = _read(own)
    lines = [checked_line(pack_entry(entry)) for entry in reading.state.worth_keeping(now)]
    if reading.faults:
        _keep_damaged(own)
    with PartialFile(own.at(LEDGER_NAME), replacing=True) as partial:
        _write_all(partial.fd, b"".join([_head(sum(map(len, lines))), *lines]))
        partial.replace()


def _keep_damaged(own: OpenFolder) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(DAMAGED_NAME, dir_fd=own.fd)
    try:
        os.link(LEDGER_NAME, DAMAGED_NAME, src_dir_fd=own.fd, dst_dir_fd=own.fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in UNLINKABLE:
            raise  # where there are no links, the damaged lines are lost with the old file: nothing can be read in them


def _head(began_bytes: int) -> bytes:
    return checked_line({"is": LEDGER_NAME, "version": VERSION, "began_bytes": began_bytes})


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=_DIGEST_DIGITS // 2).hexdigest().encode()


def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


@contextlib.contextmanager
def _locked(own: OpenFolder) -> Iterator[None]:
    """Be the only writer of the ledger for a while; the system frees the lock when the process ends."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with storage_errors(own.path / _LOCK_NAME):
        fd = os.open(_LOCK_NAME, flags, 0o640, dir_fd=own.fd)
    try:
        give_up_at = time.monotonic() + _LOCK_WAIT_S
        while not _try_to_lock(fd, own.path / _LOCK_NAME):
            if time.monotonic() > give_up_at:
                raise BusyError("another process has been writing the ledger for long", path=str(own.path))
            time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(fd)


def _try_to_lock(fd: int, path: Path) -> bool:
    try:
        lock_file(fd)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNLINKABLE and error.errno != errno.ENOLCK:
            raise StorageError(f"cannot be locked: {error.strerror}", path=str(path)) from error
        return True  # no locks here: entries merge, whoever writes them when
    return True
