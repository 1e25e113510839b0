"""Writing an image: frames as they come, then index, tables and trailer; published whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from storage import kernels, layout
from storage.digests import Buffer, SegmentDigests, digest_of, root_of
from storage.header import ImageHeader, encode_header
from storage.image import Records
from storage.output import SetOutput
from storage.partial_set import PartialSet
from storage.publish import storage_errors
from storage.spool import Spool

_INDEX_PIECE_BYTES: Final = 64 * layout.PAGE_BYTES
_TABLE_PIECE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Published:
    """A new image under its final name.

    Attributes:
        path: where it is.
        header: its header.
        root: its identity, 32 bytes.
        stored_bytes: its size, all parts together.
        changed_bytes: plain size of all its granules.
        parts: how many files it is in.
    """

    path: Path
    header: ImageHeader
    root: bytes
    stored_bytes: int
    changed_bytes: int
    parts: int = 1


class ImageWriter:
    """Writes one image. A context manager: leaving it without `finish` removes what was written.

    Args:
        target: final path.
        header: what the image says of itself.
        past_cache: write long images past the page cache, where the file system can do that.
        part_bytes: size of the parts that the image is cut into; None for one file, however large.

    Raises:
        BusyError: the final name is taken.
        StorageError: the medium refuses.

    Crash: nothing under the final name; a partial file that the next writer sweeps away.
    """

    def __init__(
        self, target: Path, header: ImageHeader, *, past_cache: bool = False, part_bytes: int | None = None
    ) -> None:
        packed = encode_header(header)
        self._partial = PartialSet(target, part_bytes)
        self._header = replace(
            header, digest=packed[layout.HEADER.itemsize - layout.DIGEST_BYTES : layout.HEADER.itemsize]
        )
        self._output = SetOutput(self._partial, past_cache=past_cache)
        self._records = Spool(target.parent)
        self._segment_table = Spool(target.parent)
        self._segments = SegmentDigests(self._segment_table.append)
        self._frames_offset = len(packed)
        self._at = 0
        self._plain_bytes = 0
        try:
            self._write(packed)
        except BaseException:
            self.__exit__()
            raise

    def append(self, records: Records, stored: Buffer) -> None:
        """Add frames.

        Args:
            records: their records in index order; `offset` is filled in here, all else is final.
            stored: their stored bytes, one after the other.

        Raises:
            StorageError: the medium refuses.
        """
        lengths = records["length"].astype(np.uint64)
        ends = np.cumsum(lengths)
        records["offset"] = self._at + ends - lengths
        self._plain_bytes += int(kernels.plain_bytes_of(records, self._header.granule_bytes))
        with storage_errors(self._partial.target):
            self._records.append(records.view(np.uint8).data)
            self._segments.update(stored)
        self._write(stored)

    def finish(self, seals: bytes = b"") -> Published:
        """Write index, tables and trailer, sync, and publish.

        Args:
            seals: 32 bytes for each covered point of an encrypted image; none of a plain one.

        Raises:
            BusyError: the final name was taken meanwhile.
            StorageError: the medium refuses.
        """
        frames_bytes = self._at - self._frames_offset
        index_offset = self._at
        pages = self._write_index()
        page_table_offset = self._at
        self._write(pages.tobytes())
        segment_table_offset = self._at
        segment_table_digest = self._write_segment_table(seals)
        trailer = np.zeros((), layout.TRAILER)
        trailer["magic"] = layout.TRAILER_MAGIC
        trailer["frames_offset"] = self._frames_offset
        trailer["frames_bytes"] = frames_bytes
        trailer["index_offset"] = index_offset
        trailer["record_count"] = self._records.size_bytes // layout.RECORD_BYTES
        trailer["page_table_offset"] = page_table_offset
        trailer["page_count"] = len(pages)
        trailer["segment_table_offset"] = segment_table_offset
        trailer["segment_count"] = self._segment_table.size_bytes // layout.DIGEST_BYTES
        trailer["plain_bytes"] = self._plain_bytes
        trailer["file_bytes"] = self._at + layout.TRAILER.itemsize
        for name, digest in (
            ("header_digest", self._header.digest),
            ("page_table_digest", digest_of(pages.tobytes())),
            ("segment_table_digest", segment_table_digest),
        ):
            trailer[name] = np.frombuffer(digest, np.uint8)
        signed = trailer.tobytes()[: layout.TRAILER_SIGNED_BYTES]
        root = root_of(signed)
        self._write(signed + root)
        with storage_errors(self._partial.target):
            self._output.finish()
        self._partial.publish()
        return Published(
            self._partial.target, self._header, root, self._at, self._plain_bytes, self._partial.part_count
        )

    def _write_index(self) -> npt.NDArray[np.void]:
        pages: list[npt.NDArray[np.void]] = []
        for packed in self._spooled(self._records, _INDEX_PIECE_BYTES):
            view, records = memoryview(packed), np.frombuffer(packed, layout.RECORD)
            starts = range(0, len(records), layout.RECORDS_PER_PAGE)
            table = np.zeros(len(starts), layout.PAGE)
            for row, first in enumerate(starts):
                piece = view[
                    first * layout.RECORD_BYTES : (first + layout.RECORDS_PER_PAGE) * layout.RECORD_BYTES
                ]
                table[row]["digest"] = np.frombuffer(digest_of(piece), np.uint8)
                table[row]["first_block"] = records["block"][first]
                table[row]["last_block"] = records["block"][
                    min(first + layout.RECORDS_PER_PAGE, len(records)) - 1
                ]
            pages.append(table)
            self._write(view)
        return np.concatenate(pages) if pages else np.zeros(0, layout.PAGE)

    def _write_segment_table(self, seals: bytes) -> bytes:
        """Write the digests of all segments, then the seals; return the digest of both."""
        with storage_errors(self._partial.target):
            self._segments.finish()
        digest = blake3()
        for piece in chain(self._spooled(self._segment_table, _TABLE_PIECE_BYTES), (seals,)):
            digest.update(piece)
            self._write(piece)
        return digest.digest()

    def _spooled(self, spool: Spool, piece_bytes: int) -> Iterator[bytes]:
        with storage_errors(self._partial.target):
            yield from spool.pieces(piece_bytes)

    def _write(self, piece: Buffer) -> None:
        view = memoryview(piece)
        with storage_errors(self._partial.target):
            self._output.write(view)
        self._at += len(view)

    def __enter__(self) -> ImageWriter:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._output.close()
            self._records.close()
            self._segment_table.close()
        finally:
            self._partial.discard()
