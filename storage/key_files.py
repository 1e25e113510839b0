"""Where the key slots of a chain are, and opening them: the `.spk` side file, else the copies in headers.

The side file is what counts while it is there and good: a password that was changed no longer opens anything, though
headers of older images still have slots that it opens. When the side file is lost or damaged, those copies serve.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from policies.errors import ConfigurationError, FormatError, PasswordError, StorageError
from storage import layout
from storage.header import ImageHeader
from storage.key_area import KeyArea, KeySlot, decode_key_area, encode_key_area
from storage.keys import ChainKey, KdfCost, open_slot
from storage.publish import PartialFile, storage_errors
from storage.stored_file import StoredFile

_FILE_BYTES_MAX: Final = layout.KEY_AREA.itemsize + layout.MAX_KEY_SLOTS * layout.KEY_SLOT.itemsize
_COPIES_TRIED_MAX: Final = 8
"""Different copies of key slots that are tried, newest first: each try costs time."""

_GENERATION_MAX: Final = (1 << 64) - 1


class Passwords(Protocol):
    """Gives passwords when they are needed, and not before."""

    def known(self, volume: str) -> bytes:
        """Return the password of a volume that has one."""

    def new(self, volume: str) -> bytes:
        """Return the password for a volume that is to get one."""


@dataclass(frozen=True, slots=True)
class Unlocked:
    """An open chain.

    Attributes:
        key: its key.
        area: the slots that it was opened by.
        slot: number of the one that opened.
        newest: the newest slots there are. They may be others, where the side file is lost or damaged, and a password
            opened a copy in an older image.
    """

    key: ChainKey
    area: KeyArea
    slot: int
    newest: KeyArea


def save_key_file(path: Path, area: KeyArea) -> None:
    """Write key slots in the place of older ones.

    Raises:
        StorageError: the medium refuses.

    Crash: the older ones stay.
    """
    with PartialFile(path, replacing=True) as partial:
        with storage_errors(path), open(partial.fd, "wb", closefd=False) as stream:
            stream.write(encode_key_area(area))
        partial.replace()


def load_key_file(path: Path) -> KeyArea:
    """Read key slots from a side file.

    Raises:
        FormatError: it is damaged, or something else.
        StorageError: it cannot be read.
    """
    file = StoredFile(path)
    try:
        if file.size_bytes > _FILE_BYTES_MAX:
            raise FormatError("is too large for a file of key slots", path=str(path), actual=file.size_bytes)
        return decode_key_area(bytes(file.read(0, file.size_bytes)), str(path))
    finally:
        file.close()


def unlock(
    path: Path, headers: Iterable[ImageHeader], password: bytes, *, for_reading: bool = False
) -> Unlocked:
    """Open a chain with a password.

    Args:
        path: its key file, which may be missing.
        headers: headers of its encrypted images.
        password: as `ops.passwords` gives it.
        for_reading: the slots go nowhere: copies serve as well where a medium fails under the key file.

    Raises:
        PasswordError: the password opens nothing that is undamaged.
        ConfigurationError: there is not enough memory to try.
        StorageError: the key file cannot be read, and this is not for reading.
    """
    copies = {header.key_area: header.chain_id for header in headers}
    trouble = "is missing"
    if path.exists():
        try:
            area = load_key_file(path)
        except FormatError as error:
            trouble = f"is no good ({error.message})"
        except StorageError as error:
            if not for_reading:
                raise
            trouble = error.message
        else:
            if area.chain_id in copies.values():
                return _opened(area, password, path)
            trouble = "belongs to another chain"
    areas = [decode_key_area(copy, str(path)) for copy in copies]
    newest_first = sorted(areas, key=lambda area: -area.generation)
    for area in newest_first[:_COPIES_TRIED_MAX]:
        found = open_slot(area, password)
        if found is not None:
            return Unlocked(found[0], area, found[1], newest_first[0])
    raise PasswordError(
        f"the password opens none of the copies of the key that images carry, and the key file {trouble}",
        path=str(path),
        hint="Bring the key file back from a replica, or use the password that was valid when the images were made.",
    )


def _opened(area: KeyArea, password: bytes, path: Path) -> Unlocked:
    found = open_slot(area, password)
    if found is None:
        raise PasswordError(
            "the password is wrong",
            path=str(path),
            hint="The key file is undamaged. Mind the keyboard's layout, and blanks at the end of the password.",
        )
    return Unlocked(found[0], area, found[1], area)


def new_key(chain_id: bytes, password: bytes, cost: KdfCost | None = None) -> Unlocked:
    """Draw the key of a new chain, and wrap it."""
    key = ChainKey.new(chain_id)
    area = KeyArea(chain_id, 1, (key.wrap(password, cost),))
    return Unlocked(key, area, 0, area)


def with_password(opened: Unlocked, password: bytes, cost: KdfCost | None = None) -> KeyArea:
    """Return the newest slots with one more, for another password; as they are, if that opens one of them already.

    Raises:
        ConfigurationError: there are as many as there may be.
    """
    if open_slot(opened.newest, password) is not None:
        return opened.newest
    return _changed(opened, (*opened.newest.slots, opened.key.wrap(password, cost)))


def with_changed_password(opened: Unlocked, password: bytes, cost: KdfCost | None = None) -> KeyArea:
    """Return the newest slots with another password in the place of the one that opened them.

    Raises:
        ConfigurationError: there are as many as there may be, and the password that opened is not among them.
    """
    twin = open_slot(opened.newest, password)  # once removed, it has to be gone: it may have one slot only
    others = _slots_but(opened, None if twin is None else twin[1])
    return _changed(opened, (*others, opened.key.wrap(password, cost)))


def without_password(opened: Unlocked) -> KeyArea:
    """Return the newest slots without the one that opened them.

    Raises:
        ConfigurationError: it is the last one.
    """
    slots = _slots_but(opened)
    if not slots:
        raise ConfigurationError(
            "this is the only password: without it, nobody could restore anything",
            hint="Add another one first, with `rollforward password add`.",
        )
    return _changed(opened, slots)


def _slots_but(opened: Unlocked, another: int | None = None) -> tuple[KeySlot, ...]:
    """Leave out the slot that opened, which a copy in an older image alone may have, and another one."""
    mine = opened.slot if opened.area == opened.newest else None
    return tuple(slot for number, slot in enumerate(opened.newest.slots) if number not in (mine, another))


def _changed(opened: Unlocked, slots: tuple[KeySlot, ...]) -> KeyArea:
    if len(slots) > layout.MAX_KEY_SLOTS:
        raise ConfigurationError(f"a chain has at most {layout.MAX_KEY_SLOTS} passwords")
    generation = min(opened.newest.generation + 1, _GENERATION_MAX)
    return replace(opened.newest, generation=generation, slots=slots)
