"""Which file of a spanned set is to blame: missing, too many, of another size, swapped, or of another image.

Nothing in a part says which one it is, so that the parts one after the other are the image. What belongs where is
told by what the image has anyway: the size in its trailer, the magic bytes at both ends, and the digests of frames,
index pages and tables, each of which has its place.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from policies.errors import (
    DigestMismatchError,
    ForeignContainerError,
    FormatError,
    NotAnImageError,
    RollforwardError,
    TruncatedError,
)
from policies.spanning import odd_part
from storage import layout
from storage.digests import digest_of, frame_digest, root_of
from storage.parts import first_gap, part_numbers_beside, part_path
from storage.stored_file import StoredFile

if TYPE_CHECKING:
    from storage.image import ImageReader, Records

_FROM_REPLICA: Final = "Fetch a good copy of this file from a replica."
_STRETCH_BYTES: Final = 2 * layout.SEGMENT_BYTES
"""A part is known by what lies in stretches of so much at its beginning, in its middle and at its end."""
_LANDMARKS: Final = 2
"""So many places of each stretch are looked at; less in all, and a part that has none of it may just be damaged."""
_TELLING_BYTES: Final = 64
"""Shorter frames may be alike by chance."""
_PAGES_HELD: Final = 256
_PARTS_COMPARED: Final = 512
"""So many other parts at most are looked at, to tell what a strange one is."""


def set_fault(
    file: StoredFile, header_digest: bytes | None, numbers: Sequence[int] | None = None
) -> FormatError | None:
    """Tell what is wrong with an image's files as files, at first sight.

    Args:
        file: the image, as far as its parts are there.
        header_digest: the digest in its header; None where that could not be read.
        numbers: numbers of all further parts that lie in its folder, ascending; looked up if not given.

    Returns:
        An error that names the file; None if the files make a set, or the image is in one file.

    Raises:
        StorageError: they cannot be read.
    """
    numbers = part_numbers_beside(file.path) if numbers is None else numbers
    if not numbers:
        return None
    trailer = _trailer_before(file, file.size_bytes)
    if trailer is not None and int(trailer["file_bytes"]) == file.size_bytes:
        if header_digest is not None and trailer["header_digest"].tobytes() != header_digest:
            return _another_image(file)
        if len(numbers) >= file.part_count:
            return _too_many(file, numbers[file.part_count - 1])
        return _odd_size(file, file.size_bytes)
    gap = first_gap(numbers)
    if gap is not None:
        return _missing(file, gap)
    return _too_many_at_the_end(file) or _wrong_sizes(file, trailer) or _end_elsewhere(file)


def _another_image(file: StoredFile) -> FormatError:
    return DigestMismatchError(
        f"is the end of another image than {file.path.name} is the beginning of",
        path=str(file.part_path(file.part_count - 1)),
        hint=_FROM_REPLICA,
    )


def _missing(file: StoredFile, number: int) -> FormatError:
    return TruncatedError(
        f"this part of the set {file.path.name} is missing",
        path=str(part_path(file.path, number)),
        hint="Fetch it from a replica, or from where the set was written.",
    )


def _too_many(file: StoredFile, number: int) -> FormatError:
    return FormatError(
        f"does not belong to the set {file.path.name}, which is whole without it",
        path=str(part_path(file.path, number)),
        hint="Move this file away.",
    )


def _too_many_at_the_end(file: StoredFile) -> FormatError | None:
    """Tell whether the image ends with an earlier part than the last."""
    for number in range(1, file.part_count):
        end = file.part_start(number)
        trailer = _trailer_before(file, end)
        if trailer is not None and int(trailer["file_bytes"]) == end:
            return _too_many(file, number)
    return None


def _wrong_sizes(file: StoredFile, trailer: np.void | None) -> FormatError | None:
    if file.part_count < 2:
        return None
    return _odd_size(file, None if trailer is None else int(trailer["file_bytes"]))


def _odd_size(file: StoredFile, image_bytes: int | None) -> FormatError | None:
    """Name the part whose size does not fit."""
    if file.part_count < 2:
        return None
    odd = odd_part(file.part_sizes, image_bytes)
    if odd is None:
        return None
    words = f"is too {'long' if odd.is_too_long else 'short'} for its place in the set {file.path.name}"
    if file.part_count == 2 and odd.part == 1:  # either may be it
        words += ", or that file is of another part size"
    return TruncatedError(
        words,
        path=str(file.part_path(odd.part)),
        expected=f"{odd.expected_bytes:,} bytes",
        actual=f"{odd.actual_bytes:,}",
        hint=_FROM_REPLICA,
    )


def _end_elsewhere(file: StoredFile) -> FormatError:
    """All sizes fit, but the end of the image is not where it should be."""
    last = file.part_count - 1
    for part in range(last):
        trailer = _trailer_before(file, file.part_start(part + 1))
        if trailer is not None and int(trailer["file_bytes"]) == file.size_bytes:
            return _swapped(file, part, last)
    sizes = file.part_sizes
    if sizes[last] == sizes[0]:
        return TruncatedError(
            f"this part of the set {file.path.name} is missing: the image does not end with the one before",
            path=str(part_path(file.path, last + 1)),
            hint="Fetch it from a replica, and those that follow it, if any do.",
        )
    return TruncatedError(
        f"is not the end of the set {file.path.name}: it was cut off, or is of another image",
        path=str(file.part_path(last)),
        hint=_FROM_REPLICA,
    )


def _swapped(file: StoredFile, part: int, place: int) -> FormatError:
    return DigestMismatchError(
        f"holds what belongs into {file.part_path(place).name}: files of the set were swapped, or one was copied",
        path=str(file.part_path(part)),
        hint="Give the parts their right names, or fetch good copies from a replica.",
    )


def _trailer_before(file: StoredFile, end: int) -> np.void | None:
    """Read the trailer that ends at a byte of the image; None if none does."""
    if end < layout.HEADER.itemsize + layout.TRAILER.itemsize:
        return None
    packed = bytes(file.read(end - layout.TRAILER.itemsize, layout.TRAILER.itemsize))
    trailer: np.void = np.frombuffer(packed, layout.TRAILER)[0]
    fits = packed[:8] == layout.TRAILER_MAGIC
    return trailer if fits and root_of(packed[: layout.TRAILER_SIGNED_BYTES]) == packed[-32:] else None


# --- an image that cannot be opened


def told_at_opening(file: StoredFile, error: FormatError) -> FormatError:
    """Say of an image that could not be opened which of its files is to blame.

    Args:
        file: the image, as far as its parts are there.
        error: what was found.

    Returns:
        An error that names the file; the one given, where nothing more can be told.
    """
    if isinstance(error, ForeignContainerError) or error.path != str(file.path):
        return error
    if not (file.part_count > 1 or part_numbers_beside(file.path)):
        return error
    try:
        if isinstance(error, NotAnImageError):
            return _beginning_elsewhere(file) or set_fault(file, None) or error
        return (
            set_fault(file, _header_digest(file)) or _bad_table(file) or _placed(file, error, error.offset, 1)
        )
    except RollforwardError:  # what was found first says more
        return error


def _header_digest(file: StoredFile) -> bytes:
    return bytes(file.read(layout.HEADER.itemsize - layout.DIGEST_BYTES, layout.DIGEST_BYTES))


def _beginning_elsewhere(file: StoredFile) -> FormatError | None:
    for part in range(1, file.part_count):
        start = bytearray(len(layout.HEADER_MAGIC))
        if file.part_sizes[part] >= len(start):
            file.read_part(part, 0, [memoryview(start)])
        if start == layout.HEADER_MAGIC:
            return NotAnImageError(
                f"is not the first part of an image, but {file.part_path(part).name} is: were they swapped?",
                path=str(file.path),
                hint="Give the parts their right names, or fetch good copies from a replica.",
            )
    return None


def _bad_table(file: StoredFile) -> FormatError | None:
    """Tell whether the part that should hold the page table was swapped."""
    trailer = _trailer_before(file, file.size_bytes)
    if trailer is None:
        return None
    start, stop = int(trailer["page_table_offset"]), int(trailer["segment_table_offset"])
    if not layout.HEADER.itemsize <= start < stop < file.size_bytes:
        return None
    table = _Landmark(start, stop - start, trailer["page_table_digest"].tobytes())
    place = file.part_at(start)
    if table.is_in(file, place, place):
        return None
    for part in range(min(file.part_count, _PARTS_COMPARED)):
        if table.is_in(file, part, place):
            return _swapped(file, part, place)
    return _placed(file, DigestMismatchError("the page table is damaged"), start, stop)


# --- an image that can be opened, and is damaged inside


def told_by_part(image: ImageReader, error: FormatError) -> FormatError:
    """Say of damage within an image which of its files is to blame, and at which byte of it.

    Args:
        image: the image, still open.
        error: what was found; its path is the image's, its offset counts through all parts.

    Returns:
        An error that names the part; the one given, if the image is in one file or the place is unknown.
    """
    file = image.file
    if file.part_count == 1 or error.path != str(file.path) or error.offset is None:
        return error
    try:
        places = _Places(image)
        start, stop = places.extent(error.offset)
        for part in range(file.part_at(start), file.part_at(stop - 1) + 1):
            strange = places.strangeness(part)
            if strange is not None:
                return strange
    except RollforwardError:  # the medium fails too, or the index is damaged as well: what is known must do
        start, stop = error.offset, error.offset + 1
    return _placed(file, error, start, stop)


def _placed(file: StoredFile, error: FormatError, start: int | None, stop: int) -> FormatError:
    """Have an error name the part, or parts, where a range of the image lies."""
    if start is None:
        return error
    first, last = file.part_at(start), file.part_at(max(stop - 1, start))
    also = f", here or in {file.part_path(first + 1).name}" if last == first + 1 else ""
    also = f", here or in what follows, up to {file.part_path(last).name}" if last > first + 1 else also
    return type(error)(
        error.message + also,
        path=str(file.part_path(first)),
        offset=start - file.part_start(first),
        expected=error.expected,
        actual=error.actual,
        hint=error.hint or _FROM_REPLICA,
    )


@dataclass(frozen=True, slots=True)
class _Landmark:
    """Bytes whose digest is known: where they belong in the image, how many they are."""

    offset: int
    size: int
    digest: bytes

    def is_in(self, file: StoredFile, part: int, place: int) -> bool:
        """Tell whether a part holds these bytes where the part at `place` should."""
        at = self.offset - file.part_start(place)
        if at < 0 or at + self.size > file.part_sizes[part]:
            return False
        found = bytearray(self.size)
        file.read_part(part, at, [memoryview(found)])
        is_frame = len(self.digest) == layout.FRAME_DIGEST_BYTES
        return (frame_digest(found) if is_frame else digest_of(found)) == self.digest


class _Places:
    """What belongs where in an open image."""

    def __init__(self, image: ImageReader) -> None:
        self._image = image
        self._file = image.file
        self._pages: dict[int, Records | None] = {}

    def extent(self, offset: int) -> tuple[int, int]:
        """Narrow damage down: the first frame from here on that is damaged, the page, or the table."""
        image = self._image
        table_start = image.index_offset + image.record_count * layout.RECORD_BYTES
        if offset >= image.segment_table_offset:
            return offset, self._file.size_bytes - layout.TRAILER.itemsize
        if offset >= table_start:
            return offset, image.segment_table_offset
        if offset >= image.index_offset:
            start = (
                image.index_offset + (offset - image.index_offset) // layout.PAGE_BYTES * layout.PAGE_BYTES
            )
            return offset if offset != start else start, min(start + layout.PAGE_BYTES, table_start)
        for frame in self._frames(offset, min(offset + layout.SEGMENT_BYTES, image.index_offset) + 1):
            if frame.offset + frame.size > offset and not self._is_whole(frame):
                return frame.offset, frame.offset + frame.size
        return offset, offset + 1

    def _is_whole(self, frame: _Landmark) -> bool:
        return frame_digest(self._file.read(frame.offset, frame.size)) == frame.digest

    def strangeness(self, part: int) -> FormatError | None:
        """Say what a part is if nothing in it is in its place; None if something is, or if nothing can be told."""
        file = self._file
        own = self._landmarks(part)
        if not own or any(landmark.is_in(file, part, part) for landmark in own):
            return None
        for place in range(min(file.part_count, _PARTS_COMPARED)):
            if place != part and any(mark.is_in(file, part, place) for mark in self._landmarks(place)):
                return _swapped(file, part, place)
        if len(own) < _LANDMARKS:
            return None
        return DigestMismatchError(
            f"holds nothing of what belongs there in the set {file.path.name}: it is of another image, or damaged "
            "all over",
            path=str(file.part_path(part)),
            hint=_FROM_REPLICA,
        )

    def _landmarks(self, part: int) -> list[_Landmark]:
        """Name a few places that lie within one part, far from each other if it is long."""
        start, stop = self._file.part_start(part), self._file.part_start(part + 1)
        middle = (start + stop - _STRETCH_BYTES) // 2
        found: dict[int, _Landmark] = {}
        for first in (start, max(middle, start), max(stop - _STRETCH_BYTES, start)):
            last = min(first + _STRETCH_BYTES, stop)
            marks = [*self._frames(first, last), *self._page_marks(first, last)]
            within = [mark for mark in marks if mark.offset >= first and mark.offset + mark.size <= last]
            telling = [mark for mark in within if mark.size >= _TELLING_BYTES]
            found |= {mark.offset: mark for mark in (*telling[:_LANDMARKS], *telling[-_LANDMARKS:])}
        return list(found.values())

    def _page_marks(self, start: int, stop: int) -> list[_Landmark]:
        """List the index pages that touch a range of the image."""
        image = self._image
        end = image.index_offset + image.record_count * layout.RECORD_BYTES
        first = max(start - image.index_offset, 0) // layout.PAGE_BYTES
        last = min(-(-max(stop - image.index_offset, 0) // layout.PAGE_BYTES), len(image.pages))
        starts = (image.index_offset + page * layout.PAGE_BYTES for page in range(first, last))
        return [
            _Landmark(at, min(layout.PAGE_BYTES, end - at), image.pages[page]["digest"].tobytes())
            for page, at in enumerate(starts, first)
        ]

    def _frames(self, start: int, stop: int) -> list[_Landmark]:
        """List the frames with stored bytes that touch a range of the image, as far as their pages are good."""
        found: list[_Landmark] = []
        first = bisect_right(range(len(self._image.pages)), start, key=self._page_start) - 1
        for page in range(max(first, 0), len(self._image.pages)):
            records = self._page(page)
            if records is None:
                continue
            if int(records["offset"][0]) >= stop:
                break
            offset, length = records["offset"].astype(np.int64), records["length"].astype(np.int64)
            is_stored = (length > 0) & (records["flags"] & np.uint32(layout.FRAME_TRACE) == 0)
            rows = np.flatnonzero(is_stored & (offset < stop) & (offset + length > start))
            found += [
                _Landmark(int(offset[row]), int(length[row]), records["digest"][row].tobytes())
                for row in rows.tolist()
            ]
        return found

    def _page_start(self, page: int) -> int:
        """Say at which byte the frames of a page begin; of one that is damaged, what the next ones allow."""
        for good in range(page, len(self._image.pages)):
            records = self._page(good)
            if records is not None:
                return int(records["offset"][0])
        return self._image.index_offset

    def _page(self, page: int) -> Records | None:
        if len(self._pages) >= _PAGES_HELD:
            self._pages.clear()
        if page not in self._pages:
            try:
                self._pages[page] = self._image.read_pages(page, page + 1)
            except FormatError:
                self._pages[page] = None
        return self._pages[page]


def problem_words(error: RollforwardError, path: Path) -> str:
    """Say what is wrong with an image, beginning with the name of the part if that is another than its first.

    Args:
        error: what was found.
        path: the image's first part.
    """
    if error.path is None or error.path == str(path):
        return error.reason
    return f"{Path(error.path).name}: {error.reason}"
