"""Nothing of a volume shows in its encrypted images, and a wrong password is not mistaken for damage."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from blake3 import blake3
from numba import njit

from ops.passwords import VARIABLE
from tests.bed import VOLUME, Bed

_PIECE_BYTES = 32
_STEP_BYTES = 32_768
_WINDOW_BYTES = 8 << 20
_HASH_BITS = 22
_FACTOR = 0x9E37_79B9_7F4A_7C15


def wrong_password_or_damage(bed: Bed) -> str:
    """A wrong password, damage, and both: exit 10 where the password alone is wrong, 3 where an image is damaged."""
    folder = bed.linked(bed.chain)
    wrong = bed.folder / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("Grüße, four words lang\n")
    target = bed.folder / "not-made.raw"
    restore = ("restore", folder, "--volume", VOLUME, "--to", target)

    def ran(*arguments: str | Path) -> int:
        done = bed.command(*arguments)
        assert "four words" not in done.errors + done.output
        assert not target.exists()
        return done.code

    assert ran(*restore, "--password-file", wrong) == 10
    assert ran("verify", folder, "--deep", "--password-file", wrong) == 10
    assert ran("verify", folder) == 0

    victim = next(folder.glob("*-i001.spi"))
    content = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    assert ran(*restore, "--point", "1") == 3
    assert ran("verify", victim) == 1
    assert ran("verify", victim, "--deep") == 1
    assert ran(*restore, "--password-file", wrong) == 10, "no image is judged before the password is right"

    victim.write_bytes(content)
    keys = next(folder.glob("*.spk"))
    slots = keys.read_bytes()
    keys.unlink()
    keys.write_bytes(slots[:100] + bytes([slots[100] ^ 1]) + slots[101:])
    bed.must("verify", folder, "--deep")
    refused = bed.command(*restore, "--password-file", wrong)
    assert refused.code == 10
    assert "damaged" in refused.errors
    return "wrong password exit 10, damage exit 3, damaged key slots named"


def no_plain_text(bed: Bed) -> str:
    """No piece of the volume, no digest of a block, no name of computer or source is in any file of the folder.

    The search has to find such pieces in a plain image of the same state, or it proves nothing.
    """
    plain = bed.new_folder("plain")
    replay = bed.history.replay(bed.folder / "plain.raw")
    with patch.dict(os.environ):
        os.environ.pop(VARIABLE, None)
        without = Bed(bed.folder, bed.history, per_day=1, per_week=1)
        without.must("capture", replay.path, "--into", plain, "--volume", VOLUME)
    pieces = _pieces(replay.path)
    replay.path.unlink()
    seen, _ = _found(plain, pieces, frozenset())
    assert seen > 50, f"the search finds {seen} pieces in plain images: too few to prove anything"
    names = frozenset({f'"computer":"{platform.node()}"'.encode(), b'.raw"'})
    assert _found(plain, set(), names)[0] == len(names)
    found, searched_bytes = _found(bed.chain, pieces, names)
    assert not found, f"{found} of them are plain text"
    return f"0 of {len(pieces):,} pieces in {searched_bytes >> 20:,} MiB; {seen:,} of them in a plain image"


def _pieces(path: Path) -> set[bytes]:
    """Pieces of a volume, one every 32 KiB, and the digests of its blocks."""
    pieces: set[bytes] = set()
    with path.open("rb") as file:
        while block := file.read(65_536):
            if any(block):
                pieces.add(blake3(block).digest(24))
            for at in range(0, len(block), _STEP_BYTES):
                piece = block[at : at + _PIECE_BYTES]
                if len(set(piece)) > 12:
                    pieces.add(piece)
    return pieces


def _found(folder: Path, pieces: set[bytes], names: frozenset[bytes]) -> tuple[int, int]:
    """Count the pieces and names that some file of a folder holds, wherever they begin; and the bytes searched."""
    starts: dict[bytes, list[bytes]] = {}
    for piece in pieces:
        starts.setdefault(piece[:8], []).append(piece)
    marked = np.zeros(1 << _HASH_BITS, np.bool_)
    marked[_hashed(np.frombuffer(b"".join(starts), "<u8"))] = True
    found: set[bytes] = set()
    size = 0
    for path in (entry for entry in folder.rglob("*") if entry.is_file()):
        content = path.read_bytes()
        size += len(content)
        found |= {name for name in names if name in content}
        for first in range(0, len(content), _WINDOW_BYTES):
            window = content[first : first + _WINDOW_BYTES + _PIECE_BYTES]
            for at in _marked_places(np.frombuffer(window, np.uint8), marked):
                found |= {
                    piece for piece in starts.get(window[at : at + 8], ()) if window.startswith(piece, at)
                }
    return len(found), size


@njit(nogil=True)
def _marked_places(content: npt.NDArray[np.uint8], marked: npt.NDArray[np.bool_]) -> list[int]:
    """Where eight bytes stand whose hash is marked."""
    places = [0 for _ in range(0)]
    word = np.uint64(0)
    for at in range(len(content)):
        word = (word >> np.uint64(8)) | (np.uint64(content[at]) << np.uint64(56))
        if at >= 7 and marked[(word * np.uint64(_FACTOR)) >> np.uint64(64 - _HASH_BITS)]:
            places.append(at - 7)
    return places


def _hashed(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    return (words * np.uint64(_FACTOR)) >> np.uint64(64 - _HASH_BITS)
