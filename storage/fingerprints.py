"""Fingerprints of a volume's last captured state: one digest a block, bound to the point they describe.

Kept beside the chain, so that the next capture finds the blocks that changed by reading the volume once. They are
a convenience: lost, damaged or stale ones are made anew from the chain. Those of an encrypted chain are encrypted
too, since equal blocks have equal fingerprints, and known contents known ones.

They are read and written in pieces, in the order of the volume, each of which proves itself: so a volume of any size
takes the same memory, and damage costs no more than the piece that it is in.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Self

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from policies.errors import StorageError
from storage import layout
from storage.publish import PartialFile, storage_errors

if TYPE_CHECKING:
    from storage.keys import ChainKey

_MAGIC: Final = b"RFPRINT\x03"
_MAGIC_ENCRYPTED: Final = b"RFPRINT\x04"
_SALT_BYTES: Final = 32
_DIGEST_BYTES: Final = 32

PIECE_BLOCKS: Final = 1 << 16
"""Blocks whose fingerprints are one piece: 1.5 MiB."""

_HELD_PIECES_MAX: Final = 64
"""Pieces that are kept in memory before they are written, 96 MiB: the image comes first where room is short."""

_HEAD: Final = np.dtype(
    [
        ("magic", "S8"),
        ("granule_bytes", "<u4"),
        ("digest_bytes", "<u4"),
        ("volume_bytes", "<u8"),
        ("chain_id", "u1", (16,)),
        ("point_id", "u1", (16,)),
        ("salt", "u1", (_SALT_BYTES,)),
    ]
)
"""Head of the file, 88 bytes; the salt is zero in a plain one. Pieces follow. In a plain file, BLAKE3 of head, number
of the piece and fingerprints stands behind each; in an encrypted one, each is encrypted, and bound to the head, under
a key of its own that comes of salt and number."""


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


def zero_prints(blocks: int) -> Fingerprints:
    """Return the fingerprints of so many zero blocks."""
    return np.zeros((blocks, layout.FRAME_DIGEST_BYTES), np.uint8)


class _Pieces:
    """How a file of fingerprints is laid out, and what proves each of its pieces.

    Args:
        head: the head of the file.
        blocks: how many fingerprints there are.
        key: the key of an encrypted chain; None of a plain one.
    """

    def __init__(self, head: bytes, blocks: int, key: ChainKey | None) -> None:
        self._head = head
        self._blocks = blocks
        self._key = key
        self._proof_bytes = _DIGEST_BYTES if key is None else layout.FRAME_TAG_BYTES

    @property
    def count(self) -> int:
        return -(-self._blocks // PIECE_BLOCKS)

    @property
    def file_bytes(self) -> int:
        prints_bytes = self._blocks * layout.FRAME_DIGEST_BYTES
        return len(self._head) + prints_bytes + self.count * self._proof_bytes

    def blocks_of(self, number: int) -> int:
        return min(PIECE_BLOCKS, self._blocks - number * PIECE_BLOCKS)

    def _at(self, number: int) -> int:
        return len(self._head) + number * (PIECE_BLOCKS * layout.FRAME_DIGEST_BYTES + self._proof_bytes)

    def read(self, fd: int, number: int) -> Fingerprints | None:
        """Read a piece; None if it is not what was written."""
        prints_bytes = self.blocks_of(number) * layout.FRAME_DIGEST_BYTES
        stored = memoryview(os.pread(fd, prints_bytes + self._proof_bytes, self._at(number)))
        plain: bytes | memoryview | None
        if self._key is None:
            plain = stored[:prints_bytes]
            plain = plain if self._digest(number, plain) == stored[prints_bytes:] else None
        else:
            context = layout.FINGERPRINT_KEY_CONTEXT
            plain = self._key.decrypt_once(context, self._of(number), stored, self._head)
        if plain is None or len(plain) != prints_bytes:
            return None
        return np.frombuffer(plain, np.uint8).reshape(-1, layout.FRAME_DIGEST_BYTES)

    def write(self, fd: int, number: int, prints: Fingerprints) -> None:
        """Write a piece; in a plain file, one of zeros takes no room."""
        flat = np.ascontiguousarray(prints).reshape(-1)
        at = self._at(number)
        if self._key is not None:
            context = layout.FINGERPRINT_KEY_CONTEXT
            _write_all(fd, self._key.encrypt_once(context, self._of(number), flat.data, self._head), at)
            return
        if flat.any():
            _write_all(fd, flat.data, at)
        _write_all(fd, self._digest(number, flat.data), at + len(flat))

    def _digest(self, number: int, plain: memoryview) -> bytes:
        digest = blake3(self._head + number.to_bytes(8, "little"))
        digest.update(plain)
        return digest.digest()

    def _of(self, number: int) -> bytes:
        return self._head[-_SALT_BYTES:] + number.to_bytes(8, "little")


def _write_all(fd: int, content: bytes | memoryview, at: int) -> None:
    view = memoryview(content)
    while view:
        done = os.pwrite(fd, view, at)
        at += done
        view = view[done:]


class KnownFingerprints:
    """Fingerprints that are read piece by piece. A context manager.

    Args:
        fd: the open file, which is closed in the end.
        pieces: its layout.
    """

    def __init__(self, fd: int, pieces: _Pieces) -> None:
        self._fd = fd
        self._pieces = pieces

    def piece(self, number: int) -> Fingerprints | None:
        """Read the fingerprints of `PIECE_BLOCKS` blocks, or of fewer where the volume ends.

        Returns:
            uint8, shape (blocks, 24), not writable; empty behind the end. None if they are damaged or unreadable.
        """
        if number >= self._pieces.count:
            return zero_prints(0)
        try:
            return self._pieces.read(self._fd, number)
        except OSError:
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def open_fingerprints(path: Path, state: StateKey, key: ChainKey | None = None) -> KnownFingerprints | None:
    """Open fingerprints if they say that they describe just that state.

    Args:
        path: where they are.
        state: what they have to describe.
        key: the key of an encrypted chain; None of a plain one.

    Returns:
        The fingerprints; None if they are missing, stale or cut.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        head = os.pread(fd, _HEAD.itemsize, 0)
        pieces = _Pieces(head, state.blocks, key)
        fits = head[:-_SALT_BYTES] == _head(state, key)[:-_SALT_BYTES]
        if fits and os.fstat(fd).st_size == pieces.file_bytes:
            return KnownFingerprints(fd, pieces)
    except OSError:
        os.close(fd)
        return None
    os.close(fd)
    return None


class NewFingerprints:
    """Fingerprints that are written while a volume is read. A context manager: unless they are saved, nothing is left.

    What the medium refuses makes them void, and no more than that: the next capture does without them.

    Args:
        path: where they go, in the place of older ones; None for a file without a name, that is gone in the end.
        state: what they describe.
        key: the key of an encrypted chain; None of a plain one.
        blocks: how many there are; None for all of the state's.
        unnamed_in: folder of a file without a name.

    Attributes:
        base: what they are as where they are not given; None for those of zero blocks.
        void: whether they are of no use.

    Crash: the older ones stay, and are recognised as stale.
    """

    def __init__(
        self,
        path: Path | None,
        state: StateKey,
        key: ChainKey | None = None,
        *,
        blocks: int | None = None,
        unnamed_in: Path | None = None,
    ) -> None:
        self._path = path
        self._folder = unnamed_in
        self._head = _head(state, key)
        self._pieces = _Pieces(self._head, state.blocks if blocks is None else blocks, key)
        self._partial: PartialFile | None = None
        self._unnamed: IO[bytes] | None = None
        self._number = 0
        self._waiting: list[tuple[int, Fingerprints | None]] = []
        self._held = 0
        self._piece: Fingerprints | None = None
        self.base: KnownFingerprints | None = None
        self.void = False

    def put(self, blocks: npt.NDArray[np.int64], prints: Fingerprints) -> None:
        """Take in fingerprints of some blocks.

        Those of blocks that are never given are as in `base`; without one, they are those of zero blocks.

        Args:
            blocks: int64, ascending, all behind those of earlier calls.
            prints: their fingerprints.
        """
        numbers = blocks // PIECE_BLOCKS
        for number in np.unique(numbers).tolist():
            if self.void:
                return
            rows = slice(*np.searchsorted(numbers, (number, number + 1)).tolist())
            self._advance(number)
            if self._piece is not None:
                self._piece[blocks[rows] - number * PIECE_BLOCKS] = prints[rows]

    def forget(self) -> None:
        """Make them void: they are not, or not all, what they should be."""
        self.void = True
        self._piece = None
        self._waiting.clear()
        self._discard()

    def complete(self) -> None:
        """Take all that remains from `base`, which is needed no longer then."""
        if not self.void:
            self._advance(self._pieces.count)
        self.base = None

    def save(self) -> None:
        """Put them in the place of the older ones, if they are not void."""
        try:
            self._finish()
            if self._partial is not None:
                self._partial.replace()
        except (OSError, StorageError):
            self.forget()

    def known(self) -> KnownFingerprints | None:
        """Return those of a file without a name, to be read; None if they are void."""
        try:
            self._finish()
            return None if self.void else KnownFingerprints(os.dup(self._fd()), self._pieces)
        except (OSError, StorageError):
            self.forget()
            return None

    def _finish(self) -> None:
        self.complete()
        if not self.void:
            self._write_waiting()
            _write_all(self._fd(), self._head, 0)
            os.truncate(self._fd(), self._pieces.file_bytes)

    def _advance(self, number: int) -> None:
        """Write all pieces before one, and begin it."""
        try:
            while self._number < number and not self.void:
                piece = self._begun()
                if piece is not None:
                    self._hold(self._number, piece)
                self._piece = None
                self._number += 1
            if self._number < self._pieces.count and not self.void:
                self._begun()
        except (OSError, StorageError):
            self.forget()

    def _hold(self, number: int, piece: Fingerprints) -> None:
        """Keep a piece to be written later, or write all that are kept, where they are many."""
        is_zero = not piece.any()
        self._waiting.append((number, None if is_zero else piece))
        self._held += not is_zero
        if self._held > _HELD_PIECES_MAX:
            self._write_waiting()

    def _write_waiting(self) -> None:
        for number, piece in self._waiting:
            kept = zero_prints(self._pieces.blocks_of(number)) if piece is None else piece
            self._pieces.write(self._fd(), number, kept)
        self._waiting.clear()
        self._held = 0

    def _begun(self) -> Fingerprints | None:
        """Return the present piece as far as it is known; None if what it is based on is damaged."""
        if self._piece is None:
            piece = zero_prints(self._pieces.blocks_of(self._number))
            if self.base is not None:
                before = self.base.piece(self._number)
                if before is None:
                    self.forget()
                    return None
                piece[: len(before)] = before[: len(piece)]
            self._piece = piece
        return self._piece

    def _fd(self) -> int:
        """Return the file, which is made when it is first written to."""
        if self._path is None:
            if self._unnamed is None:
                self._unnamed = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by _discard()
            return self._unnamed.fileno()
        if self._partial is None:
            with storage_errors(self._path):
                self._path.parent.mkdir(mode=0o750, exist_ok=True)
            self._partial = PartialFile(self._path, replacing=True)
        return self._partial.fd

    def _discard(self) -> None:
        if self._partial is not None:
            self._partial.discard()
        if self._unnamed is not None:
            self._unnamed.close()
        self._partial = self._unnamed = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._discard()


def _head(state: StateKey, key: ChainKey | None) -> bytes:
    head = np.zeros((), _HEAD)
    head["magic"] = _MAGIC if key is None else _MAGIC_ENCRYPTED
    head["granule_bytes"] = state.granule_bytes
    head["digest_bytes"] = layout.FRAME_DIGEST_BYTES
    head["volume_bytes"] = state.volume_bytes
    head["chain_id"] = np.frombuffer(state.chain_id, np.uint8)
    head["point_id"] = np.frombuffer(state.point_id, np.uint8)
    salt = bytes(_SALT_BYTES) if key is None else secrets.token_bytes(_SALT_BYTES)
    return head.tobytes()[:-_SALT_BYTES] + salt
