"""Key slots: the chain's data key, wrapped by passwords, as they lie in `.spk` files and in each encrypted header.

Nothing here can open a slot: this is the layout, its checksum and its bounds, which need no password. So damage is
told before any password is tried. Whether somebody with the key wrote the slots is told by their seal, once a
password has opened one: see `storage.keys`.
"""

from __future__ import annotations

from collections.abc import Iterable
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
from policies.names import ImageName, SideFile, image_name, parse_image_name
from storage import layout
from storage.digests import digest_of

KEY_FILE_BYTES_MAX: Final = layout.KEY_AREA.itemsize + layout.MAX_KEY_SLOTS * layout.KEY_SLOT.itemsize
"""How large a key file can be, and the key area of a header."""

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
        seal: 24 bytes: a keyed digest of all the rest; zero as long as nobody has made it.
    """

    chain_id: bytes
    generation: int
    slots: tuple[KeySlot, ...]
    seal: bytes = bytes(layout.FRAME_DIGEST_BYTES)


def sealed_part(area: KeyArea) -> bytes:
    """Return what the seal of key slots covers: who they are for, their generation, and all of them.

    Source: docs/format.md, "Key area".
    """
    packed = encode_key_area(area)
    return packed[: layout.KEY_AREA_SEALED_BYTES] + packed[layout.KEY_AREA.itemsize :]


def encode_key_area(area: KeyArea) -> bytes:
    """Lay key slots out as bytes.

    Source: docs/format.md, "Key area".
    """
    head = np.zeros((), layout.KEY_AREA)
    head["magic"] = layout.KEY_AREA_MAGIC
    head["slot_count"] = len(area.slots)
    head["generation"] = area.generation
    head["chain_id"] = np.frombuffer(area.chain_id, np.uint8)
    head["seal"] = np.frombuffer(area.seal, np.uint8)
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
        raise DigestMismatchError(
            "the key slots are damaged: their digest does not match",
            path=path,
            hint="`rollforward password repair` mends them, from the key file or from another image.",
        )
    if packed[:8] != layout.KEY_AREA_MAGIC or head["reserved_a"]:
        raise UnsupportedVersionError("the key slots use features unknown to this version", path=path)
    count = int(head["slot_count"])
    if not 1 <= count <= layout.MAX_KEY_SLOTS or len(packed) != head_bytes + count * layout.KEY_SLOT.itemsize:
        raise FormatError("the number of key slots does not fit", path=path, actual=count)
    table = np.frombuffer(packed[head_bytes:], layout.KEY_SLOT)
    slots = tuple(_decode_slot(row, path) for row in table)
    return KeyArea(head["chain_id"].tobytes(), int(head["generation"]), slots, head["seal"].tobytes())


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
        names = [entry.name for entry in folder.iterdir()]
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror}", path=str(folder)) from error
    found = key_files_among(names).values()
    return tuple(sorted(name.base for name in found if name.volume == volume))


def key_files_among(names: Iterable[str]) -> dict[str, ImageName]:
    """Pick the key files out of some file names.

    Args:
        names: names without a folder.

    Returns:
        The name of its chain's base, for each.
    """
    ending = f".{SideFile.KEY.value}"
    named = {
        name: parse_image_name(f"{name.removesuffix(ending)}.spf") for name in names if name.endswith(ending)
    }
    return {name: base for name, base in named.items() if base is not None and base.is_base}
