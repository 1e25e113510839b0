"""Fingerprints of a volume's last captured state: one digest a block, bound to the point they describe.

Kept beside the chain, so that the next capture finds the blocks that changed by reading the volume once. They are
a convenience: lost, damaged or stale ones are made anew from the chain. Those of an encrypted chain are encrypted
too, since equal blocks have equal fingerprints, and known contents known ones.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from storage import layout
from storage.publish import PartialFile, storage_errors

if TYPE_CHECKING:
    from storage.keys import ChainKey

_MAGIC: Final = b"RFPRINT\x01"
_MAGIC_ENCRYPTED: Final = b"RFPRINT\x02"
_SALT_BYTES: Final = 32
_TAG_BYTES: Final = layout.FRAME_TAG_BYTES
_PIECE_BYTES: Final = 16 << 20

_HEAD: Final = np.dtype(
    [
        ("magic", "S8"),
        ("granule_bytes", "<u4"),
        ("digest_bytes", "<u4"),
        ("volume_bytes", "<u8"),
        ("chain_id", "u1", (16,)),
        ("point_id", "u1", (16,)),
        ("digest", "u1", (32,)),
    ]
)
"""Head of the file, 88 bytes; `digest` is BLAKE3 of the head before it and of all fingerprints. In an encrypted file
it is a salt: pieces of 16 MiB follow, each encrypted under a key of its own that comes of salt and number."""


@dataclass(frozen=True, slots=True)
class StateKey:
    """What a set of fingerprints describes: a point of a chain, in its geometry.

    Attributes:
        chain_id: 16 bytes.
        point_id: 16 bytes.
        granule_bytes: size of a granule.
        volume_bytes: size of the volume at that point.
    """

    chain_id: bytes
    point_id: bytes
    granule_bytes: int
    volume_bytes: int

    @property
    def blocks(self) -> int:
        """Number of blocks of the volume."""
        return -(-self.volume_bytes // (self.granule_bytes * layout.GRANULES_PER_BLOCK))


Fingerprints = npt.NDArray[np.uint8]
"""uint8 array of shape (blocks, 24): the frame digest of each block's plain bytes; all zero for a zero block."""


def fingerprints_path(folder: Path, volume: str, base: int) -> Path:
    """Return where the fingerprints of a chain are kept."""
    return folder / ".rollforward" / f"{volume}-b{base:03d}.fingerprints"


def save_fingerprints(path: Path, state: StateKey, prints: Fingerprints, key: ChainKey | None = None) -> None:
    """Write fingerprints in the place of older ones.

    Args:
        path: where to.
        state: what they describe.
        prints: the fingerprints.
        key: the key of an encrypted chain; None of a plain one.

    Raises:
        StorageError: the medium refuses.

    Crash: the older ones stay, and are recognised as stale.
    """
    flat = np.ascontiguousarray(prints).reshape(-1).data
    with storage_errors(path):
        path.parent.mkdir(mode=0o750, exist_ok=True)
    with PartialFile(path, replacing=True) as partial:
        with storage_errors(path), os.fdopen(os.dup(partial.fd), "wb") as stream:
            if key is None:
                head = _signed_head(state, _MAGIC)
                digest = blake3(head)
                digest.update(flat)
                stream.write(head + digest.digest())
                stream.write(flat)
            else:
                head = _signed_head(state, _MAGIC_ENCRYPTED) + secrets.token_bytes(_SALT_BYTES)
                stream.write(head)
                for number, at in enumerate(range(0, len(flat), _PIECE_BYTES)):
                    of = _of_piece(head, number)
                    piece = flat[at : at + _PIECE_BYTES]
                    stream.write(key.encrypt_once(layout.FINGERPRINT_KEY_CONTEXT, of, piece, head))
        partial.replace()


def load_fingerprints(path: Path, state: StateKey, key: ChainKey | None = None) -> Fingerprints | None:
    """Read fingerprints if they describe just that state and are undamaged.

    Args:
        path: where from.
        state: what they have to describe.
        key: the key of an encrypted chain; None of a plain one.

    Returns:
        The fingerprints; None if they are missing, stale or damaged.
    """
    size = state.blocks * layout.FRAME_DIGEST_BYTES
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD.itemsize)
            if head[:-32] != _signed_head(state, _MAGIC if key is None else _MAGIC_ENCRYPTED):
                return None
            prints = _read_plain(stream, head, size) if key is None else _read_keyed(stream, head, size, key)
            if prints is None or stream.read(1):
                return None
    except OSError:
        return None
    return prints.reshape(-1, layout.FRAME_DIGEST_BYTES)


def _read_plain(stream: BufferedReader, head: bytes, size: int) -> Fingerprints | None:
    prints = np.empty(size, np.uint8)
    if stream.readinto(prints.data) != size:
        return None
    digest = blake3(head[:-32])
    digest.update(prints.data)
    return prints if digest.digest() == head[-32:] else None


def _read_keyed(stream: BufferedReader, head: bytes, size: int, key: ChainKey) -> Fingerprints | None:
    prints = np.empty(size, np.uint8)
    for number, at in enumerate(range(0, size, _PIECE_BYTES)):
        stored = stream.read(min(_PIECE_BYTES, size - at) + _TAG_BYTES)
        plain = key.decrypt_once(layout.FINGERPRINT_KEY_CONTEXT, _of_piece(head, number), stored, head)
        if plain is None or len(plain) != min(_PIECE_BYTES, size - at):
            return None
        prints[at : at + len(plain)] = np.frombuffer(plain, np.uint8)
    return prints


def _of_piece(head: bytes, number: int) -> bytes:
    return head[-_SALT_BYTES:] + number.to_bytes(8, "little")


def _signed_head(state: StateKey, magic: bytes) -> bytes:
    head = np.zeros((), _HEAD)
    head["magic"] = magic
    head["granule_bytes"] = state.granule_bytes
    head["digest_bytes"] = layout.FRAME_DIGEST_BYTES
    head["volume_bytes"] = state.volume_bytes
    head["chain_id"] = np.frombuffer(state.chain_id, np.uint8)
    head["point_id"] = np.frombuffer(state.point_id, np.uint8)
    return head.tobytes()[:-32]
