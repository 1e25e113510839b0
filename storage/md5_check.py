"""Verification by MD5 side file: of foreign images, and of images of ours beside which one lies.

MD5 tells whether bytes were damaged since the side file was written. It does not tell whether somebody exchanged image
and side file together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from policies.names import parse_image_name
from storage.md5_side_file import Expected, Said, expect
from storage.parts import image_files, part_path
from storage.pipeline import Buffer, BufferPool, Progress, no_progress, ordered_map
from storage.stored_file import StoredFile

_PIECE_BYTES: Final = 4 << 20
_READERS: Final = 2
"""Threads that read ahead while another one digests; both free the interpreter's lock."""
_AHEAD: Final = 4

_ONE_IS_DAMAGED: Final = ": one of them is damaged"
_SPEAKS_OF_IT: Final = " speaks of it"


@dataclass(frozen=True, slots=True)
class Md5Verdict:
    """What came of holding an image against its side files.

    Attributes:
        status: good; bad; unproven where no side file speaks of it, or not of all of it.
        reason: why it is not good, in words.
        side_files: names of the side files that it was held against; of those that say nothing of it, if none does.
    """

    status: Literal["good", "bad", "unproven"]
    reason: str | None = None
    side_files: tuple[str, ...] = ()


def check_md5(file: StoredFile, *, from_medium: bool = True, progress: Progress = no_progress) -> Md5Verdict:
    """Hold an image, all its parts, against the side files beside it.

    Args:
        file: the open image.
        from_medium: drop it from the page cache first, so that the medium is what is proven.
        progress: told how many bytes are done.

    Raises:
        FormatError: the image was cut short meanwhile.
        StorageError: a medium fails, which says nothing of the bytes.
    """
    following = None if parse_image_name(file.path.name) is None else part_path(file.path, file.part_count)
    expected = expect((file.part_path(part) for part in range(file.part_count)), following)
    if following is not None and expected.missing is not None:
        return Md5Verdict("bad", _missing(following.name, expected.missing), (expected.missing.by,))
    if expected.is_silent:
        return Md5Verdict("unproven", expected.doubt, expected.side_files)
    if from_medium:
        file.forget_cache()
    return _hold_against(file, expected, progress)


def doubt_at_first_sight(path: Path) -> str | None:
    """Say why an image cannot be verified by side files, looking at these alone.

    An image that was found unproven is worth another look once this is no longer the reason.

    Args:
        path: the image; of a spanned set, its first part.

    Returns:
        The reason, as `check_md5` gives it; None if there is none.

    Raises:
        StorageError: a side file's medium fails.
    """
    return _expected(path)[1].doubt


def rests_on_side_file(reason: str) -> bool:
    """Tell whether an image was judged bad because of what a side file says, by the reason that `check_md5` gave."""
    return reason.endswith((_ONE_IS_DAMAGED, _SPEAKS_OF_IT))


def is_still_said(path: Path, reason: str) -> bool:
    """Tell whether side files still say what an image was judged bad for, looking at these alone.

    Args:
        path: the image; of a spanned set, its first part.
        reason: of which `rests_on_side_file` says so.

    Raises:
        StorageError: a side file's medium fails.
    """
    following, expected = _expected(path)
    if following is not None and expected.missing is not None:
        return reason == _missing(following.name, expected.missing)
    return any(
        reason.startswith(f"{name} has the MD5 ") and reason.endswith(_but(each))
        for name, said in zip(expected.names, expected.said, strict=True)
        for each in said
    )


def _expected(path: Path) -> tuple[Path | None, Expected]:
    """Give the part that would follow those of an image, and what side files say of all."""
    files = image_files(path)
    following = None if parse_image_name(path.name) is None else part_path(path, len(files))
    return following, expect(files, following)


def _hold_against(file: StoredFile, expected: Expected, progress: Progress) -> Md5Verdict:
    used = tuple(dict.fromkeys(said.by for each in expected.said for said in each))
    whole = hashlib.md5(usedforsecurity=False) if expected.speaks_of_first_alone else None
    fault: str | None = None
    for part, said in enumerate(expected.said):
        if not said and whole is None:
            continue
        digest = _digest_part(file, part, whole, progress)
        wrong = next((each for each in said if each.digest != digest), None)
        if wrong is not None:
            fault = fault or _mismatch(expected.names[part], wrong, digest)
    if whole is not None and all(said.digest == whole.digest() for said in expected.said[0]):
        return Md5Verdict("good", None, used)
    if fault is not None:
        return Md5Verdict("bad", fault, used)
    doubt = expected.doubt
    return Md5Verdict("unproven", doubt, used) if doubt else Md5Verdict("good", None, used)


def _mismatch(name: str, said: Said, digest: bytes) -> str:
    return f"{name} has the MD5 {digest.hex()}{_but(said)}"


def _but(said: Said) -> str:
    return f", but {said.by} says {said.digest.hex()}{_ONE_IS_DAMAGED}"


def _missing(name: str, said: Said) -> str:
    return f"{name}: this part of the set is missing: {said.by}{_SPEAKS_OF_IT}"


def _digest_part(file: StoredFile, part: int, whole: hashlib._Hash | None, progress: Progress) -> bytes:
    """Return the MD5 of one part, and feed it to that of the whole set too, if one is given."""
    size = file.part_sizes[part]
    buffers = BufferPool(_AHEAD + 1, _PIECE_BYTES)
    own = hashlib.md5(usedforsecurity=False)

    def read(offset: int) -> tuple[int, Buffer]:
        buffer = buffers.take()
        end = min(offset + _PIECE_BYTES, size)
        file.read_part(part, offset, [buffer.data[: end - offset]])
        return end, buffer

    def offsets() -> Iterator[int]:
        yield from range(0, size, _PIECE_BYTES)

    done = 0
    with closing(ordered_map(read, offsets(), threads=_READERS, ahead=_AHEAD)) as pieces:
        for end, buffer in pieces:
            own.update(buffer.data[: end - done])
            if whole is not None:
                whole.update(buffer.data[: end - done])
            buffers.give(buffer)
            done = end
            progress(file.part_start(part) + end, file.size_bytes)
    return own.digest()
