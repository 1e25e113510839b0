"""Key slots: the chain's data key, wrapped by passwords, as they lie in `.spk` files and in each encrypted header.

Nothing here can open a slot: this is the layout, its checksum and its bounds, which need no password. So damage is
told before any password is tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from policies.errors import (
    DigestMismatchError,
    FormatError,
    StorageError,
    TruncatedError,
    UnsupportedVersionError,
)
from policies.names import SideFile, image_name, parse_image_name
from storage import layout
from storage.digests import digest_of

_SIGNED_BYTES: Final = layout.KEY_AREA.itemsize - layout.DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class KeySlot:
    """The data key, wrapped by one password.

    Attributes:
        memory_kib: memory that Argon2id takes, in KiB.
        passes: how often it goes over that.
        lanes: how many lanes that is cut into.
        salt: 16 bytes.
        nonce: 12 bytes.
        wrapped: 48 bytes: the data key, encrypted, and its tag.
    """

    memory_kib: int
    passes: int
    lanes: int
    salt: bytes
    nonce: bytes
    wrapped: bytes


@dataclass(frozen=True, slots=True)
class KeyArea:
    """All slots of a chain.

    Attributes:
        chain_id: 16 bytes: the chain that the key is for.
        generation: 1 at first, one more with each change of a password.
        slots: at least one; each opens by another password.
    """

    chain_id: bytes
    generation: int
    slots: tuple[KeySlot, ...]


def encode_key_area(area: KeyArea) -> bytes:
    """Lay key slots out as bytes.

    Source: docs/format.md, "Key area".
    """
    head = np.zeros((), layout.KEY_AREA)
    head["magic"] = layout.KEY_AREA_MAGIC
    head["slot_count"] = len(area.slots)
    head["generation"] = area.generation
    head["chain_id"] = np.frombuffer(area.chain_id, np.uint8)
    table = np.zeros(len(area.slots), layout.KEY_SLOT)
    for row, slot in enumerate(area.slots):
        table[row]["kdf"] = layout.KDF_ARGON2ID
        for name in ("memory_kib", "passes", "lanes"):
            table[row][name] = getattr(slot, name)
        for name in ("salt", "nonce", "wrapped"):
            table[row][name] = np.frombuffer(getattr(slot, name), np.uint8)
    signed, slots = head.tobytes()[:_SIGNED_BYTES], table.tobytes()
    return signed + digest_of(signed, slots) + slots


def decode_key_area(packed: bytes, path: str) -> KeyArea:
    """Check and read key slots.

    Args:
        packed: the whole key area or side file.
        path: the file, for messages.

    Raises:
        FormatError: they are damaged, or ask for more memory or time than is ever needed; its subclasses say how.

    Source: docs/format.md, "Key area".
    """
    head_bytes = layout.KEY_AREA.itemsize
    if len(packed) < head_bytes:
        raise TruncatedError("the key slots end too early", path=path)
    head = np.frombuffer(packed[:head_bytes], layout.KEY_AREA)[0]
    if digest_of(packed[:_SIGNED_BYTES], packed[head_bytes:]) != head["digest"].tobytes():
        raise DigestMismatchError("the key slots are damaged: their digest does not match", path=path)
    if packed[:8] != layout.KEY_AREA_MAGIC or head["reserved_a"] or head["reserved_b"].any():
        raise UnsupportedVersionError("the key slots use features unknown to this version", path=path)
    count = int(head["slot_count"])
    if not 1 <= count <= layout.MAX_KEY_SLOTS or len(packed) != head_bytes + count * layout.KEY_SLOT.itemsize:
        raise FormatError("the number of key slots does not fit", path=path, actual=count)
    table = np.frombuffer(packed[head_bytes:], layout.KEY_SLOT)
    slots = tuple(_decode_slot(row, path) for row in table)
    return KeyArea(head["chain_id"].tobytes(), int(head["generation"]), slots)


def _decode_slot(row: np.void, path: str) -> KeySlot:
    if row["kdf"] != layout.KDF_ARGON2ID or row["reserved"].any():
        raise UnsupportedVersionError("a key slot uses features unknown to this version", path=path)
    memory_kib, passes, lanes = (int(row[name]) for name in ("memory_kib", "passes", "lanes"))
    if (
        not 1 <= lanes <= layout.MAX_KDF_LANES
        or passes < 1
        or not 8 * lanes <= memory_kib <= layout.MAX_KDF_MEMORY_KIB
        or memory_kib * passes > layout.MAX_KDF_WORK_KIB
    ):
        raise FormatError(
            f"a key slot asks for {memory_kib:,} KiB, {passes:,} times, in {lanes} lanes: out of bounds",
            path=path,
        )
    return KeySlot(
        memory_kib, passes, lanes, row["salt"].tobytes(), row["nonce"].tobytes(), row["wrapped"].tobytes()
    )


def key_file_path(folder: Path, volume: str, base: int) -> Path:
    """Return where the key slots of a chain are kept."""
    return folder / (Path(image_name(volume, base).filename()).stem + f".{SideFile.KEY.value}")


def key_file_bases(folder: Path, volume: str) -> tuple[int, ...]:
    """List the bases of a volume that have a key file, whether their images are there and good or not.

    Args:
        folder: the managed folder.
        volume: name of the volume.

    Raises:
        StorageError: the folder cannot be read.
    """
    try:
        stems = [entry.stem for entry in folder.iterdir() if entry.suffix == f".{SideFile.KEY.value}"]
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror}", path=str(folder)) from error
    named = [parse_image_name(f"{stem}.spf") for stem in stems]
    return tuple(sorted(name.base for name in named if name and name.is_base and name.volume == volume))
