"""Fingerprints of a volume's last captured state: one digest a block, bound to the point they describe.

Kept beside the chain, so that the next capture finds the blocks that changed by reading the volume once. They are
a convenience: lost, damaged or stale ones are made anew from the chain.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from storage import layout
from storage.publish import PartialFile, storage_errors

_MAGIC: Final = b"RFPRINT\x01"
_PIECE_BYTES: Final = 4 << 20

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
"""Head of the file, 88 bytes; `digest` is BLAKE3 of the head before it and of all fingerprints."""


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


def save_fingerprints(path: Path, key: StateKey, prints: Fingerprints) -> None:
    """Write fingerprints in the place of older ones.

    Raises:
        StorageError: the medium refuses.

    Crash: the older ones stay, and are recognised as stale.
    """
    head = _signed_head(key)
    digest = blake3(head)
    flat = np.ascontiguousarray(prints).reshape(-1).data
    digest.update(flat)
    with storage_errors(path):
        path.parent.mkdir(mode=0o750, exist_ok=True)
    with PartialFile(path, replacing=True) as partial:
        with storage_errors(path), os.fdopen(os.dup(partial.fd), "wb") as stream:
            stream.write(head + digest.digest())
            stream.write(flat)
        partial.replace()


def load_fingerprints(path: Path, key: StateKey) -> Fingerprints | None:
    """Read fingerprints if they describe just that state and are undamaged.

    Returns:
        The fingerprints; None if they are missing, stale or damaged.
    """
    size = key.blocks * layout.FRAME_DIGEST_BYTES
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD.itemsize)
            if head[:-32] != _signed_head(key):
                return None
            prints = np.empty(size, np.uint8)
            if stream.readinto(prints.data) != size or stream.read(1):
                return None
    except OSError:
        return None
    digest = blake3(head[:-32])
    digest.update(prints.data)
    return prints.reshape(-1, layout.FRAME_DIGEST_BYTES) if digest.digest() == head[-32:] else None


def _signed_head(key: StateKey) -> bytes:
    head = np.zeros((), _HEAD)
    head["magic"] = _MAGIC
    head["granule_bytes"] = key.granule_bytes
    head["digest_bytes"] = layout.FRAME_DIGEST_BYTES
    head["volume_bytes"] = key.volume_bytes
    head["chain_id"] = np.frombuffer(key.chain_id, np.uint8)
    head["point_id"] = np.frombuffer(key.point_id, np.uint8)
    return head.tobytes()[:-32]
