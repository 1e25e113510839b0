"""Keys of an encrypted chain: how they follow from the data key, and how passwords wrap that.

    password ──Argon2id──▶ wrapping key ──opens a slot──▶ data key ─┬─▶ a frame key for each capture id
                                                                    ├─▶ a metadata key for each capture id
                                                                    ├─▶ the seal key
                                                                    ├─▶ the key area key
                                                                    └─▶ a fingerprint key for each file of them

Source: docs/format.md, "Encryption".
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from policies.errors import ConfigurationError, DigestMismatchError
from storage import layout
from storage.digests import Buffer
from storage.key_area import KeyArea, KeySlot, sealed_part
from storage.secrecy import leave_no_dumps

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_ZERO_NONCE: Final = bytes(_NONCE_BYTES)
_BLOCK_NONCE_REST: Final = bytes(_NONCE_BYTES - 4)
_CIPHERS_KEPT: Final = 4096


@dataclass(frozen=True, slots=True)
class KdfCost:
    """What one guess of a password costs.

    Attributes:
        memory_kib: memory, in KiB.
        passes: how often Argon2id goes over it.
        lanes: how many lanes it is cut into.
    """

    memory_kib: int = 64 << 10
    passes: int = 3
    lanes: int = 4


RECOMMENDED_COST: Final = KdfCost()
"""The second recommended choice of RFC 9106, section 4: some 0.15 s."""


class FrameCipher:
    """Encrypts and decrypts the frames of one capture. Safe to share between threads.

    A key is used for one capture only, and a capture makes at most one frame of a block: so the block's number is
    a nonce that never comes twice.

    Args:
        key: 32 bytes, derived from the data key and the capture id.
        chain_id: 16 bytes.
        capture_id: 16 bytes.
    """

    __slots__ = ("_aead", "_bound")

    def __init__(self, key: bytes, chain_id: bytes, capture_id: bytes) -> None:
        self._aead = AESGCM(key)
        self._bound = chain_id + capture_id

    def encrypt(self, record: np.void, packed: Buffer) -> bytes:
        """Encrypt the coded granules of a frame.

        Args:
            record: layout.RECORD; its block, flags and mask are final.
            packed: the granules as they are coded.

        Returns:
            As many bytes, and a tag of 16.
        """
        fields = record.tobytes()
        nonce = fields[:4] + _BLOCK_NONCE_REST
        return self._aead.encrypt(nonce, packed, self._bound + fields[:4] + fields[20:40])

    def decrypt(self, record: np.void, stored: Buffer) -> bytes:
        """Decrypt a frame.

        Args:
            record: its index record.
            stored: the stored bytes.

        Returns:
            The granules as they are coded.

        Raises:
            DigestMismatchError: these are not the bytes that this capture stored for this block, mask and coding.
        """
        fields = record.tobytes()
        nonce = fields[:4] + _BLOCK_NONCE_REST
        try:
            return self._aead.decrypt(nonce, stored, self._bound + fields[:4] + fields[20:40])
        except InvalidTag:
            raise DigestMismatchError(
                f"the frame of block {int(record['block']):,} was exchanged: it is not the one that was captured"
            ) from None


class ChainKey:
    """The data key of a chain, and what follows from it. It shows nothing of itself when printed, or in core dumps.

    Args:
        chain_id: 16 bytes.
        data_key: 32 bytes.
    """

    def __init__(self, chain_id: bytes, data_key: bytes) -> None:
        leave_no_dumps()
        self.chain_id = chain_id
        self._data_key = data_key
        self._seal_key = self.derive(layout.SEAL_KEY_CONTEXT)
        self._cipher = lru_cache(_CIPHERS_KEPT)(self._make_cipher)

    @classmethod
    def new(cls, chain_id: bytes) -> ChainKey:
        """Draw the key of a new chain."""
        return cls(chain_id, secrets.token_bytes(_KEY_BYTES))

    def __repr__(self) -> str:
        return f"ChainKey({self.chain_id.hex()}, …)"

    def derive(self, context: str, of: bytes = b"") -> bytes:
        """Derive a key of 32 bytes for one use.

        Args:
            context: the use, one of the contexts of `layout`.
            of: what it is for, within that use.
        """
        return blake3(self._data_key + of, derive_key_context=context).digest()

    def frame_cipher(self, capture_id: bytes) -> FrameCipher:
        """Return what encrypts the frames of a capture (16 bytes)."""
        return self._cipher(capture_id)

    def _make_cipher(self, capture_id: bytes) -> FrameCipher:
        return FrameCipher(self.derive(layout.FRAME_KEY_CONTEXT, capture_id), self.chain_id, capture_id)

    def seal(self, *pieces: Buffer) -> bytes:
        """Return the seal, 32 bytes, of the pieces, one after the other."""
        hasher = blake3(key=self._seal_key)
        for piece in pieces:
            hasher.update(piece)
        return hasher.digest()

    def encrypt_once(self, context: str, of: bytes, plain: Buffer, bound: bytes) -> bytes:
        """Encrypt something under a key of its own.

        Args:
            context: the use.
            of: what makes the key unique within that use: nothing else is ever encrypted under the two.
            plain: what is to be encrypted.
            bound: what it is bound to.
        """
        return AESGCM(self.derive(context, of)).encrypt(_ZERO_NONCE, plain, bound)

    def decrypt_once(self, context: str, of: bytes, stored: Buffer, bound: bytes) -> bytes | None:
        """Decrypt what `encrypt_once` gave; None if that is not what this is."""
        try:
            return AESGCM(self.derive(context, of)).decrypt(_ZERO_NONCE, stored, bound)
        except InvalidTag:
            return None

    def wrap(self, password: bytes, cost: KdfCost | None = None) -> KeySlot:
        """Make a slot that a password opens, at the recommended cost if none is given.

        Raises:
            ConfigurationError: there is not enough memory.
        """
        cost = cost or RECOMMENDED_COST
        empty = KeySlot(
            cost.memory_kib,
            cost.passes,
            cost.lanes,
            secrets.token_bytes(layout.ID_BYTES),
            secrets.token_bytes(_NONCE_BYTES),
            b"",
        )
        aead = AESGCM(_wrapping_key(empty, password))
        return replace(empty, wrapped=aead.encrypt(empty.nonce, self._data_key, self.chain_id))

    def sealed(self, area: KeyArea) -> KeyArea:
        """Return key slots with the seal that tells them from forged ones."""
        return replace(area, seal=self._seal_of(area))

    def vouches_for(self, area: KeyArea) -> bool:
        """Tell whether somebody with this key wrote key slots, all of them, and their generation."""
        return hmac.compare_digest(area.seal, self._seal_of(area))

    def _seal_of(self, area: KeyArea) -> bytes:
        key = self.derive(layout.KEY_AREA_KEY_CONTEXT)
        return blake3(sealed_part(area), key=key).digest(layout.FRAME_DIGEST_BYTES)


def open_slot(area: KeyArea, password: bytes) -> tuple[ChainKey, int] | None:
    """Try a password on all slots.

    Args:
        area: the slots, checked.
        password: as `ops.passwords` gives it.

    Returns:
        The key and the number of the slot; None if the password opens none.

    Raises:
        ConfigurationError: there is not enough memory to try.
    """
    for number, slot in enumerate(area.slots):
        aead = AESGCM(_wrapping_key(slot, password))
        try:
            return ChainKey(area.chain_id, aead.decrypt(slot.nonce, slot.wrapped, area.chain_id)), number
        except InvalidTag:
            continue
    return None


def _wrapping_key(slot: KeySlot, password: bytes) -> bytes:
    kdf = Argon2id(
        salt=slot.salt,
        length=_KEY_BYTES,
        iterations=slot.passes,
        lanes=slot.lanes,
        memory_cost=slot.memory_kib,
    )
    try:
        return kdf.derive(password)
    except MemoryError:
        raise ConfigurationError(
            f"a password takes {slot.memory_kib >> 10} MiB of memory, and that is not there"
        ) from None
