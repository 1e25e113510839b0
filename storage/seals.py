"""Seals: a keyed digest for each point, over all that its capture says, frames and index together.

A capture seals its point: who it follows, when it was taken, how large the volume was, and for each frame the block,
mask, coding and digest. A consolidation carries the seals of its sources on, as it carries their points; where it
leaves a hidden frame out, the record stays as a trace. So the seal of each point can be checked in any image, by
whoever has the key, while making the image takes none.

Source: docs/format.md, "Seals".
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np
from blake3 import blake3

from policies.errors import DigestMismatchError, FormatError
from storage import layout
from storage.header import ImageHeader, point_entry
from storage.image import ImageReader, Records
from storage.keys import ChainKey

_ORIGINS_AT_ONCE: Final = 1 << 15
"""Points whose records are hashed side by side: some 64 MiB."""

_TRACE: Final = np.uint32(layout.FRAME_TRACE)


def sealed_rows(records: Records) -> bytes:
    """Return what a seal covers of some records: layout.SEALED_ROW, one after the other."""
    rows = np.empty(len(records), layout.SEALED_ROW)
    for name in ("block", "mask_lo", "mask_hi", "digest"):
        rows[name] = records[name]
    rows["flags"] = records["flags"] & ~_TRACE
    return rows.tobytes()


def seal_of(key: ChainKey, header: ImageHeader, position: int, rows_digest: bytes) -> bytes:
    """Return the seal of a covered point.

    Args:
        key: the chain's key.
        header: header of the image.
        position: place of the point among the covered ones, from 0.
        rows_digest: BLAKE3 of the sealed rows of all its frames, in order of blocks.
    """
    before = header.covers[position - 1] if position else header.start
    return key.seal(
        header.chain_id,
        header.granule_bytes.to_bytes(4, "little"),
        point_entry(before, bytes(layout.ID_BYTES)),
        point_entry(header.covers[position], header.capture_ids[position]),
        rows_digest,
    )


class CaptureSeal:
    """Takes in the records of a capture as they are written, and seals its point.

    Args:
        key: the chain's key.
        header: header of the image, which covers one point.
    """

    def __init__(self, key: ChainKey, header: ImageHeader) -> None:
        self._key = key
        self._header = header
        self._rows = blake3()

    def update(self, records: Records) -> None:
        """Take in records, in order of blocks."""
        self._rows.update(sealed_rows(records))

    def finish(self) -> bytes:
        """Return the seal."""
        return seal_of(self._key, self._header, 0, self._rows.digest())


def check_seals(image: ImageReader, key: ChainKey) -> None:
    """Make sure that an image says of each of its points just what was captured. Reads the whole index.

    Args:
        image: the image; its index pages are held against the page table read when it was opened, now and later.
        key: the chain's key.

    Raises:
        DigestMismatchError: it says something else: a frame was added, taken away or exchanged, or a point altered.
        FormatError: the index is damaged.
    """
    path, header = str(image.path), image.header
    if not header.encrypted:
        raise FormatError("is not encrypted, though its chain is", path=path)
    if header.chain_id != key.chain_id:
        raise FormatError("belongs to another chain than the key", path=path)
    open_metadata(header, key, path)
    seals = image.read_seals()
    for first, stop in pairwise([*range(0, len(header.covers), _ORIGINS_AT_ONCE), len(header.covers)]):
        digests = _rows_digests(image, first, stop)
        for position in range(first, stop):
            if seal_of(key, header, position, digests[position - first]) != seals[position]:
                number = header.covers[position].number
                raise DigestMismatchError(
                    f"was altered by somebody who does not have the key: the seal of point {number} does not fit",
                    path=path,
                    hint="Fetch a good copy of this file from a replica that you trust.",
                )


def _rows_digests(image: ImageReader, first: int, stop: int) -> list[bytes]:
    """Digest the sealed rows of each of some points."""
    hashers = [blake3() for _ in range(first, stop)]
    for records in image.iter_records():
        origins = records["origin"]
        order = np.argsort(origins, kind="stable")
        ordered = origins[order]
        packed = memoryview(sealed_rows(records[order]))
        found, starts = np.unique(ordered, return_index=True)
        ends = np.append(starts[1:], len(order))
        size = layout.SEALED_ROW.itemsize
        for origin, start, end in zip(found.tolist(), starts.tolist(), ends.tolist(), strict=True):
            if first <= origin < stop:
                hashers[origin - first].update(packed[start * size : end * size])
    return [hasher.digest() for hasher in hashers]


def seal_metadata(header: ImageHeader, key: ChainKey) -> ImageHeader:
    """Return a capture's header with its metadata encrypted, but for the volume's name, which file names tell too."""
    plain = json.dumps(dict(header.metadata), sort_keys=True, ensure_ascii=False).encode()
    bound = header.chain_id + header.volume.encode()
    packed = key.encrypt_once(layout.METADATA_KEY_CONTEXT, header.capture_ids[-1], plain, bound)
    sealed = {"volume": header.volume, "encrypted": base64.b64encode(packed).decode()}
    return replace(header, metadata=sealed, encrypted=True)


def open_metadata(header: ImageHeader, key: ChainKey, path: str) -> Mapping[str, object]:
    """Decrypt the metadata of an encrypted image.

    Args:
        header: its header.
        key: the chain's key.
        path: the file, for messages.

    Raises:
        DigestMismatchError: it is not what was captured.
    """
    plain = _decrypted_metadata(header, key)
    if plain is None:
        raise DigestMismatchError(
            "was altered by somebody who does not have the key: the metadata is not what was captured",
            path=path,
        )
    metadata: Mapping[str, object] = json.loads(plain)
    return metadata


def is_of_key(header: ImageHeader, key: ChainKey) -> bool:
    """Tell whether the writer of an encrypted image had a key: whether that key opens the metadata."""
    return header.chain_id == key.chain_id and _decrypted_metadata(header, key) is not None


def _decrypted_metadata(header: ImageHeader, key: ChainKey) -> bytes | None:
    told = header.metadata.get("encrypted")
    try:
        packed = base64.b64decode(told if isinstance(told, str) else "", validate=True)
    except (binascii.Error, ValueError):
        packed = b""
    bound = header.chain_id + header.volume.encode()
    return key.decrypt_once(layout.METADATA_KEY_CONTEXT, header.capture_ids[-1], packed, bound)
