"""Where the key slots of a chain are, and opening them: the `.spk` side file, else the copies in headers.

The side file is what counts while it is there and good: a password that was changed no longer opens anything, though
headers of older images still have slots that it opens. When the side file is lost, damaged or forged, those copies
serve.

Whoever can write the folder can put key slots of their own into any of these places, and make all digests fit. So
slots count, and are carried on, only where the chain's key vouches for them; and a key is the chain's only if it
opens what an image says of itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from policies.errors import (
    ConfigurationError,
    DigestMismatchError,
    FormatError,
    PasswordError,
    StorageError,
)
from storage import layout
from storage.header import ImageHeader
from storage.key_area import KEY_FILE_BYTES_MAX, KeyArea, KeySlot, decode_key_area, encode_key_area
from storage.keys import ChainKey, KdfCost, open_slot
from storage.publish import PartialFile, storage_errors
from storage.seals import is_of_key
from storage.stored_file import StoredFile

_COPIES_TRIED_MAX: Final = 8
"""So many of the newest copies of key slots are tried, and of the most common ones: each try costs time."""

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
        newest: the newest slots that the key vouches for. They may be others, where the side file is lost or damaged,
            and a password opened a copy in an older image.
        is_lost: whether the side file is missing or forged, so that it should be written again.
    """

    key: ChainKey
    area: KeyArea
    slot: int
    newest: KeyArea
    is_lost: bool = False


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
        if file.size_bytes > KEY_FILE_BYTES_MAX:
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
        for_reading: the slots go nowhere: copies serve as well where a medium fails under the key file, and slots that
            nobody vouches for, if their key is the chain's.

    Raises:
        PasswordError: the password opens nothing that is undamaged, or only what is out of date.
        FormatError: it opens key slots that somebody without the chain's key put there.
        ConfigurationError: there is not enough memory to try.
        StorageError: the key file cannot be read, and this is not for reading.
    """
    headers = tuple(headers)
    slots = _find_slots(path, headers, for_reading)
    is_strange = False
    for area in slots.to_try():
        found = open_slot(area, password)
        if found is None:
            continue
        key, slot = found
        if any(is_of_key(header, key) for header in headers):
            return _unlocked(slots, area, key, slot, for_reading)
        is_strange = True
    raise _strange_key(path) if is_strange else slots.refusal()


@dataclass(frozen=True, slots=True)
class _FoundSlots:
    """Key slots of a chain, in all places.

    Attributes:
        path: the key file.
        file: the slots in it; None if there are none, or none of this chain.
        trouble: why there are none.
        is_missing: whether it is not there at all.
        copies: the others, those of headers, the newest first.
        carried: how many headers have each of them.
    """

    path: Path
    file: KeyArea | None
    trouble: str
    is_missing: bool
    copies: tuple[KeyArea, ...]
    carried: Mapping[KeyArea, int]

    def to_try(self) -> list[KeyArea]:
        """Choose what a password is tried on, in order: the newest copies, and those that most headers have."""
        common = sorted(self.copies, key=lambda area: -self.carried[area])
        chosen = (*self.copies[:_COPIES_TRIED_MAX], *common[:_COPIES_TRIED_MAX])
        return list(dict.fromkeys(chosen if self.file is None else (self.file, *chosen)))

    def newest(self, key: ChainKey) -> KeyArea | None:
        """Return the newest slots that a key vouches for: those of the key file, if they are as new as any."""
        areas = self.copies if self.file is None else (self.file, *self.copies)
        return max(filter(key.vouches_for, areas), key=lambda area: area.generation, default=None)

    def refusal(self) -> PasswordError:
        """Return the error for a password that opens nothing."""
        if self.file is not None:
            return PasswordError(
                "the password is wrong",
                path=str(self.path),
                hint="It opens neither this key file nor a copy in an image. Mind the keyboard's layout, and blanks at "
                "the end. Only if you are sure of it: was the key file exchanged? Then bring it back from a replica.",
            )
        return PasswordError(
            "the password opens none of the copies of the key that images carry, and the key file "
            f"{self.trouble}",
            path=str(self.path),
            hint="Bring the key file back from a replica, or use the password that was valid when the images were "
            "made.",
        )


def _find_slots(path: Path, headers: Sequence[ImageHeader], for_reading: bool) -> _FoundSlots:
    chains = {header.chain_id for header in headers}
    file, trouble, is_missing = None, "is missing", not path.exists()
    if not is_missing:
        try:
            file = load_key_file(path)
        except FormatError as error:
            trouble = f"is no good ({error.message})"
        except StorageError as error:
            if not for_reading:
                raise
            trouble = error.message
        if file is not None and file.chain_id not in chains:
            file, trouble = None, "belongs to another chain"
    packed = Counter(header.key_area for header in headers)
    carried = {decode_key_area(area, str(path)): count for area, count in packed.items()}
    copies = sorted((area for area in carried if area != file), key=lambda area: -area.generation)
    return _FoundSlots(path, file, trouble, is_missing, tuple(copies), carried)


def _unlocked(slots: _FoundSlots, area: KeyArea, key: ChainKey, slot: int, for_reading: bool) -> Unlocked:
    """Say what a password opened, unless it is out of date."""
    newest = slots.newest(key)
    if newest is None and not for_reading:
        raise _strange_slots(slots.path)
    if newest is not None and newest is slots.file and area is not slots.file:
        raise PasswordError(
            "the password is wrong: it was valid before it was changed",
            path=str(slots.path),
            hint="Use the password that took its place.",
        )
    is_forged = slots.file is not None and not key.vouches_for(slots.file)
    return Unlocked(key, area, slot, newest or area, slots.is_missing or is_forged)


def _strange_key(path: Path) -> DigestMismatchError:
    return DigestMismatchError(
        "the key that the password opens is that of no image here: somebody who does not have it put these key slots "
        "there, or altered the images",
        path=str(path),
        hint="Bring the key file and the images back from a replica that you trust.",
    )


def _strange_slots(path: Path) -> DigestMismatchError:
    return DigestMismatchError(
        "the key slots were altered by somebody who does not have the key: there are no genuine ones",
        path=str(path),
        hint="Bring the key file back from a replica that you trust.",
    )


def new_key(chain_id: bytes, password: bytes, cost: KdfCost | None = None) -> Unlocked:
    """Draw the key of a new chain, and wrap it."""
    key = ChainKey.new(chain_id)
    area = key.sealed(KeyArea(chain_id, 1, (key.wrap(password, cost),)))
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
    return opened.key.sealed(replace(opened.newest, generation=generation, slots=slots))
