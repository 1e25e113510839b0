"""Reading an image: header, tables and index, each checked before it is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from policies.errors import DigestMismatchError, FormatError, TruncatedError, UnsupportedVersionError
from storage import layout
from storage.digests import digest_of, root_of
from storage.header import read_header, section_bytes
from storage.part_check import told_at_opening
from storage.stored_file import StoredFile

_TABLE_PIECE_BYTES: Final = 1 << 20

Records = npt.NDArray[np.void]
"""Array of `layout.RECORD`, one dimension."""


class ImageReader:
    """An open image. Opening checks header, trailer and page table; index pages are checked when they are read.

    A context manager. Safe to share between threads.

    Args:
        path: the file; of a spanned set, its first part.
        from_medium: drop the file from the page cache first, so that what is read comes from the medium.

    Raises:
        FormatError: it is not a good image; the subclass and message say why.
        StorageError: it cannot be read.
    """

    def __init__(self, path: Path, *, from_medium: bool = False) -> None:
        self.path = path
        self.file = StoredFile(path)
        try:
            if from_medium:
                self.file.forget_cache()
            self._open()
        except BaseException as error:
            told = told_at_opening(self.file, error) if isinstance(error, FormatError) else error
            self.file.close()
            if told is not error:
                raise told from error
            raise

    def _open(self) -> None:
        self.header = read_header(self.file)
        self._trailer = self._read_trailer()
        number = {name: int(self._trailer[name]) for name in layout.TRAILER_NUMBERS}
        self.frames_offset: int = number["frames_offset"]
        self.frames_bytes: int = number["frames_bytes"]
        self.index_offset: int = number["index_offset"]
        self.record_count: int = number["record_count"]
        self.segment_table_offset: int = number["segment_table_offset"]
        self.segment_count: int = number["segment_count"]
        self.plain_bytes: int = number["plain_bytes"]
        self.stored_bytes: int = self.file.size_bytes
        self.root: bytes = self._trailer["root"].tobytes()
        self.volume_sizes = np.array([point.volume_bytes for point in self.header.covers], np.int64)
        self._check_sections(number)
        self.pages = self._read_page_table(number["page_table_offset"], number["page_count"])

    def _read_trailer(self) -> np.void:
        size = layout.TRAILER.itemsize
        offset = self.file.size_bytes - size
        if offset < layout.HEADER.itemsize:
            raise TruncatedError(
                "the file ends too early: no trailer", path=str(self.path), offset=max(offset, 0)
            )
        packed = bytes(self.file.read(offset, size))
        if packed[:8] != layout.TRAILER_MAGIC:
            raise TruncatedError(
                "the file has no trailer at its end: it was cut off, or something was appended",
                path=str(self.path),
                offset=offset,
            )
        trailer: np.void = np.frombuffer(packed, layout.TRAILER)[0]
        if root_of(packed[: layout.TRAILER_SIGNED_BYTES]) != trailer["root"].tobytes():
            raise DigestMismatchError(
                "the trailer is damaged: the root does not match", path=str(self.path), offset=offset
            )
        if trailer["reserved"]:
            raise UnsupportedVersionError(
                "the trailer uses features unknown to this version", path=str(self.path)
            )
        if trailer["header_digest"].tobytes() != self.header.digest:
            raise DigestMismatchError(
                "header and trailer belong to different images", path=str(self.path), offset=0
            )
        return trailer

    def _check_sections(self, number: dict[str, int]) -> None:
        """Sections follow each other without a gap, and their sizes follow from their counts."""
        pages = -(-number["record_count"] // layout.RECORDS_PER_PAGE)
        segments = -(-number["frames_bytes"] // layout.SEGMENT_BYTES)
        at = self._header_bytes()
        wanted = {"frames_offset": at}
        at += number["frames_bytes"]
        wanted["index_offset"] = at
        at += number["record_count"] * layout.RECORD_BYTES
        wanted["page_table_offset"] = at
        at += pages * layout.PAGE.itemsize
        wanted["segment_table_offset"] = at
        at += segments * layout.DIGEST_BYTES + self._seals_bytes + layout.TRAILER.itemsize
        wanted |= {"file_bytes": at, "page_count": pages, "segment_count": segments}
        for name, value in wanted.items():
            if number[name] != value:
                raise FormatError(
                    f"the trailer's {name} does not fit",
                    path=str(self.path),
                    expected=value,
                    actual=number[name],
                )
        if number["frames_bytes"] and not number["record_count"]:
            raise FormatError(
                "the stored stream holds bytes that no frame owns",
                path=str(self.path),
                offset=number["frames_offset"],
            )
        if at != self.file.size_bytes:
            raise TruncatedError(
                "the file's size is not the one written into it",
                path=str(self.path),
                expected=f"{at:,} bytes",
                actual=f"{self.file.size_bytes:,}",
            )

    def _header_bytes(self) -> int:
        return section_bytes(bytes(self.file.read(0, layout.HEADER.itemsize)), str(self.path))

    def _read_page_table(self, offset: int, count: int) -> npt.NDArray[np.void]:
        packed = self.file.read(offset, count * layout.PAGE.itemsize)
        if digest_of(packed) != self._trailer["page_table_digest"].tobytes():
            raise DigestMismatchError("the page table is damaged", path=str(self.path), offset=offset)
        pages: npt.NDArray[np.void] = np.frombuffer(packed, layout.PAGE)
        first, last = pages["first_block"], pages["last_block"]
        if (first > last).any() or (first[1:] < last[:-1]).any():
            raise FormatError("the page table is not in order", path=str(self.path), offset=offset)
        return pages

    def check_segment_table(self) -> None:
        """Check the digests of the stored stream, and the seals behind them.

        Raises:
            DigestMismatchError: they differ from what the trailer commits to.
        """
        digest = blake3()
        start, stop = self.segment_table_offset, self._seals_offset + self._seals_bytes
        for offset in range(start, stop, _TABLE_PIECE_BYTES):
            digest.update(self.file.read(offset, min(_TABLE_PIECE_BYTES, stop - offset)))
        if digest.digest() != self._trailer["segment_table_digest"].tobytes():
            raise DigestMismatchError("the segment table is damaged", path=str(self.path), offset=start)

    def segment_digests(self, first: int, stop: int) -> list[bytes]:
        """Return the digests of segments `first` to `stop`, of a table that was checked."""
        size = layout.DIGEST_BYTES
        packed = bytes(self.file.read(self.segment_table_offset + first * size, (stop - first) * size))
        return [packed[at : at + size] for at in range(0, len(packed), size)]

    def read_seals(self) -> list[bytes]:
        """Return the seals, 32 bytes for each covered point, none in a plain image; raises as the check does."""
        if not self.header.encrypted:
            return []
        self.check_segment_table()
        packed = bytes(self.file.read(self._seals_offset, self._seals_bytes))
        return [packed[at : at + layout.SEAL_BYTES] for at in range(0, len(packed), layout.SEAL_BYTES)]

    @property
    def _seals_offset(self) -> int:
        return self.segment_table_offset + self.segment_count * layout.DIGEST_BYTES

    @property
    def _seals_bytes(self) -> int:
        return layout.SEAL_BYTES * len(self.header.covers) if self.header.encrypted else 0

    def read_pages(self, first: int, stop: int) -> Records:
        """Read and check index pages.

        Args:
            first: number of the first page.
            stop: number after the last page.

        Returns:
            Their records, in order; origins, masks, flags, lengths and offsets lie within bounds.

        Raises:
            FormatError: a page is damaged or its records make no sense.
        """
        offset = self.index_offset + first * layout.PAGE_BYTES
        end = min(
            self.index_offset + stop * layout.PAGE_BYTES,
            self.index_offset + self.record_count * layout.RECORD_BYTES,
        )
        packed = self.file.read(offset, max(end - offset, 0))
        view = memoryview(packed)
        for page in range(first, stop):
            at = (page - first) * layout.PAGE_BYTES
            if digest_of(view[at : at + layout.PAGE_BYTES]) != self.pages["digest"][page].tobytes():
                raise DigestMismatchError("the index is damaged", path=str(self.path), offset=offset + at)
        records: Records = np.frombuffer(packed, layout.RECORD)
        self._check_records(records, offset)
        pages, blocks = self.pages[first:stop], records["block"]
        ends = np.append(blocks[layout.RECORDS_PER_PAGE - 1 : -1 : layout.RECORDS_PER_PAGE], blocks[-1:])
        starts_fit = np.array_equal(blocks[:: layout.RECORDS_PER_PAGE], pages["first_block"])
        if not starts_fit or not np.array_equal(ends, pages["last_block"]):
            raise FormatError("page table and index disagree", path=str(self.path), offset=offset)
        self._check_ends(records, first, stop)
        return records

    def _check_ends(self, records: Records, first: int, stop: int) -> None:
        """The first frame begins where the stored stream does, the last one ends where it ends."""
        at = None
        if len(records) and first == 0 and int(records[0]["offset"]) != self.frames_offset:
            at = self.frames_offset
        elif len(records) and stop == len(self.pages):
            end = int(records[-1]["offset"]) + int(records[-1]["length"])
            at = end if end != self.index_offset else None
        if at is not None:
            raise FormatError(
                "the stored stream holds bytes that no frame owns", path=str(self.path), offset=at
            )

    def _check_records(self, records: Records, offset: int) -> None:
        from storage import kernels  # late: numba takes a second to import, and headers do not need it

        tag_bytes = layout.FRAME_TAG_BYTES if self.header.encrypted else 0
        fault, row = kernels.check_records(
            records,
            self.volume_sizes,
            self.header.granule_bytes,
            self.frames_offset,
            self.index_offset,
            tag_bytes,
        )
        if fault:
            kind = UnsupportedVersionError if fault == kernels.FAULT_FLAGS else FormatError
            raise kind(kernels.FAULTS[fault], path=str(self.path), offset=offset + row * layout.RECORD_BYTES)

    def iter_records(self, pages_at_once: int = 64) -> Iterator[Records]:
        """Yield the whole index in checked pieces of `pages_at_once` pages (64 KiB each)."""
        for first in range(0, len(self.pages), pages_at_once):
            yield self.read_pages(first, min(first + pages_at_once, len(self.pages)))

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def join_records(pieces: Sequence[Records]) -> Records:
    """Return the records of all pieces, one after the other.

    As plain bytes: numpy would make a new type of them each time, which it and the kernels are slow to recognise.
    """
    if len(pieces) == 1:
        return pieces[0]
    packed = np.concatenate([np.ascontiguousarray(piece).view(np.uint8) for piece in pieces])
    return packed.view(layout.RECORD)
