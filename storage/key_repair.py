"""Mending damaged key slots: the copies in headers, and the key file itself.

No password is needed, and nothing that the root of an image covers is touched. A single spoilt byte is found by trying,
since the slots have a digest; otherwise another copy of the same size takes the place of a damaged one. Nobody but a
password can tell whether such a copy is genuine, but nothing relies on it being so: see `storage.key_files`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from policies.errors import BusyError, ConfigurationError, FormatError, StorageError
from storage import layout
from storage.digests import digest_of
from storage.folder import chains, scan_folder
from storage.header import ImageHeader, read_header, section_bytes
from storage.key_area import KEY_FILE_BYTES_MAX, decode_key_area, key_file_path
from storage.key_files import save_key_file
from storage.publish import storage_errors
from storage.stored_file import StoredFile

_SIGNED_BYTES: Final = layout.KEY_AREA.itemsize - layout.DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class Mended:
    """What became of a file with damaged key slots.

    Attributes:
        path: the image, or the key file.
        base: number of the base of its chain.
        source: where its slots come from now: another file; its own path, if a spoilt byte was found; None if they
            are as damaged as before.
    """

    path: Path
    base: int
    source: Path | None


@dataclass(frozen=True, slots=True)
class _Copy:
    """A place of key slots: the file, the chain they are for, where in the file they are, and their bytes."""

    path: Path
    chain_id: bytes
    offset: int
    packed: bytes

    @property
    def is_good(self) -> bool:
        with suppress(FormatError):
            return decode_key_area(self.packed, str(self.path)).chain_id == self.chain_id
        return False


def mend_key_slots(folder: Path, volume: str, base: int | None = None) -> list[Mended]:
    """Mend all damaged key slots of a volume. The caller holds the volume's lock.

    Args:
        folder: the managed folder.
        volume: name of the volume.
        base: only the chain of this base; all if not given.

    Returns:
        The files whose slots were damaged; none if all are good.

    Raises:
        ConfigurationError: there are no key slots at all.
        BusyError: a file changed meanwhile.
        StorageError: a medium refuses.

    Crash: slots that were being written are damaged still, or again; nothing else is touched.
    """
    found: list[Mended] = []
    is_encrypted = False
    for (_, number), images in chains(scan_folder(folder, volume)).items():
        if base in (None, number):
            copies = [copy for image in images for copy in _copy_in(image.path)]
            is_encrypted = is_encrypted or bool(copies)
            found += _mend_chain(key_file_path(folder, volume, number), number, copies)
    if not is_encrypted:
        raise ConfigurationError(f"holds no encrypted images of {volume!r}", path=str(folder))
    return found


def _copy_in(path: Path) -> Iterator[_Copy]:
    """Yield the key slots of an encrypted image whose header is good but for them."""
    with suppress(FormatError, StorageError):  # what is wrong with it beside its slots is told by verifying
        file = StoredFile(path)
        try:
            header = read_header(file, any_slots=True)
            if header.encrypted:
                yield _Copy(path, header.chain_id, _place(header, file), header.key_area)
        finally:
            file.close()


def _place(header: ImageHeader, file: StoredFile) -> int:
    """Return where the key area begins, in bytes: it is the last part of a header."""
    return section_bytes(bytes(file.read(0, layout.HEADER.itemsize)), str(file.path)) - len(header.key_area)


def _mend_chain(key_path: Path, base: int, copies: Sequence[_Copy]) -> list[Mended]:
    found = []
    chosen = copies[0].chain_id if copies else b""
    file = _key_file(key_path, chosen)
    if file is not None and not file.is_good and copies:
        file = _mended(file)
        if file is not None:
            save_key_file(key_path, decode_key_area(file.packed, str(key_path)))
        found.append(Mended(key_path, base, None if file is None else key_path))
    good = [copy for copy in (file, *copies) if copy is not None and copy.is_good]
    for copy in copies:
        if not copy.is_good:
            found.append(Mended(copy.path, base, _mend(copy, good)))
    return found


def _key_file(path: Path, chain_id: bytes) -> _Copy | None:
    """Read a key file as it is; None if there is none, it cannot be read, or is nothing like one."""
    try:
        with path.open("rb") as stream:
            packed = stream.read(KEY_FILE_BYTES_MAX + 1)
    except OSError:
        return None
    return _Copy(path, chain_id, 0, packed)


def _mend(copy: _Copy, good: Sequence[_Copy]) -> Path | None:
    """Mend a copy in a header; return where its slots come from, None if there is nothing that fits."""
    same = _mended(copy)
    if same is not None:
        _overwrite(copy, same.packed)
        return copy.path
    fitting = [
        each for each in good if each.chain_id == copy.chain_id and len(each.packed) == len(copy.packed)
    ]
    if not fitting:
        return None
    nearest = max(fitting, key=lambda each: _alike(each.packed, copy.packed))
    _overwrite(copy, nearest.packed)
    return nearest.path


def _mended(copy: _Copy) -> _Copy | None:
    """Return a copy as it was before a single byte was spoilt; None if that is not what is wrong with it."""
    packed = _one_byte_back(copy.packed)
    mended = None if packed is None else replace(copy, packed=packed)
    return mended if mended is not None and mended.is_good else None


def _alike(one: bytes, two: bytes) -> int:
    """Count the bytes that two copies have in common: damage is mostly small, and the nearest is the one of before."""
    return sum(a == b for a, b in zip(one, two, strict=True))


def _one_byte_back(packed: bytes) -> bytes | None:
    """Find what slots were before a single byte was spoilt, by their digest; None if more than one was."""
    if not layout.KEY_AREA.itemsize < len(packed) <= KEY_FILE_BYTES_MAX:
        return None
    told, wanted = packed[_SIGNED_BYTES : layout.KEY_AREA.itemsize], bytearray(packed)
    del wanted[_SIGNED_BYTES : layout.KEY_AREA.itemsize]
    actual = digest_of(wanted)
    if _alike(told, actual) >= layout.DIGEST_BYTES - 1:
        return packed[:_SIGNED_BYTES] + actual + packed[layout.KEY_AREA.itemsize :]
    for at, byte in enumerate(bytes(wanted)):
        for value in range(256):
            wanted[at] = value
            if digest_of(wanted) == told:
                return bytes(wanted[:_SIGNED_BYTES]) + told + bytes(wanted[_SIGNED_BYTES:])
        wanted[at] = byte
    return None


def _overwrite(copy: _Copy, packed: bytes) -> None:
    """Put other slots in the place of those in a header, which may lie in several parts of a set."""
    file = StoredFile(copy.path)
    try:
        if bytes(file.read(copy.offset, len(packed))) != copy.packed:
            raise BusyError(
                "changed while its key slots were being mended", path=str(copy.path), hint="Try again."
            )
        at = 0
        while at < len(packed):
            part = file.part_at(copy.offset + at)
            size = min(file.part_start(part + 1) - copy.offset - at, len(packed) - at)
            path, offset = file.place(copy.offset + at)
            _write(path, offset, packed[at : at + size])
            at += size
    finally:
        file.close()


def _write(path: Path, offset: int, piece: bytes) -> None:
    with storage_errors(path):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            while piece:
                done = os.pwrite(fd, piece, offset)
                piece, offset = piece[done:], offset + done
            os.fsync(fd)
        finally:
            os.close(fd)
