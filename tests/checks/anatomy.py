"""An image taken apart, so that tests can spoil any byte of it, and seal what they forged as far as they like."""

from __future__ import annotations

import dataclasses
from enum import IntEnum

import numpy as np
from blake3 import blake3

from storage import layout


class Seal(IntEnum):
    """Up to where digests are made to fit what was forged."""

    NONE = 0
    PAGES = 1
    TABLES = 2
    ROOT = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """A run of bytes of an image, with a name that tells what it is."""

    name: str
    start: int
    stop: int


class Anatomy:
    """Where everything is in an image; the arrays are views, so that changing them changes the image.

    Args:
        content: a good image's bytes.
    """

    def __init__(self, content: bytearray) -> None:
        self.content = content
        self.trailer_start = len(content) - layout.TRAILER.itemsize
        self.header = np.frombuffer(content, layout.HEADER, 1)
        self.trailer = np.frombuffer(content, layout.TRAILER, 1, self.trailer_start)
        head, tail = self.header[0], self.trailer[0]
        self.points_start = layout.HEADER.itemsize
        self.points = np.frombuffer(content, layout.POINT, int(head["point_count"]), self.points_start)
        self.metadata_start = self.points_start + self.points.nbytes
        self.frames_start = int(tail["frames_offset"])
        self.index_start = int(tail["index_offset"])
        self.records = np.frombuffer(content, layout.RECORD, int(tail["record_count"]), self.index_start)
        self.pages_start = int(tail["page_table_offset"])
        self.pages = np.frombuffer(content, layout.PAGE, int(tail["page_count"]), self.pages_start)
        self.segments_start = int(tail["segment_table_offset"])
        self.seals_start = self.segments_start + int(tail["segment_count"]) * layout.DIGEST_BYTES
        self.keys_start = self.frames_start - int(head["key_area_bytes"])

    def parts(self) -> list[Part]:
        """Name every class of bytes: each field of each structure, each part of each section."""
        found = [
            *_fields("header", layout.HEADER, 0),
            *_fields("from point", layout.POINT, self.points_start),
            *_fields("covered point", layout.POINT, self.metadata_start - layout.POINT.itemsize),
            Part("metadata", self.metadata_start, self.keys_start),
        ]
        if self.keys_start < self.frames_start:
            found += _fields("key area", layout.KEY_AREA, self.keys_start)
            found += _fields("key slot", layout.KEY_SLOT, self.keys_start + layout.KEY_AREA.itemsize)
        frames = self.records[self.records["length"] > 0]
        for where, at in (("first", 0), ("middle", len(frames) // 2), ("last", -1)):
            offset, length = int(frames[at]["offset"]), int(frames[at]["length"])
            found.append(Part(f"{where} frame", offset, offset + length))
        for where, row in (("first", 0), ("last", len(self.records) - 1)):
            start = self.index_start + row * layout.RECORD_BYTES
            found += _fields(f"{where} index record", layout.RECORD, start)
        found += _fields("page table", layout.PAGE, self.segments_start - layout.PAGE.itemsize)
        found.append(Part("segment table", self.segments_start, self.seals_start))
        if self.seals_start < self.trailer_start:
            found.append(Part("seals", self.seals_start, self.trailer_start))
        return found + _fields("trailer", layout.TRAILER, self.trailer_start)

    def stored(self, row: int) -> slice:
        """Where the stored bytes of a frame are."""
        offset = int(self.records[row]["offset"])
        return slice(offset, offset + int(self.records[row]["length"]))

    def seal(self, upto: Seal) -> None:
        """Make the digests fit again, from the bottom up to the given level.

        Source: docs/format.md, "Page table", "Segments", "Trailer".
        """
        view = memoryview(self.content)
        if upto >= Seal.PAGES:
            for row in range(len(self.pages)):
                start = self.index_start + row * layout.PAGE_BYTES
                page = view[start : min(start + layout.PAGE_BYTES, self.pages_start)]
                self.pages[row]["digest"] = np.frombuffer(blake3(page).digest(), np.uint8)
        if upto >= Seal.TABLES:
            starts = range(self.frames_start, self.index_start, layout.SEGMENT_BYTES)
            digests = (
                blake3(view[at : min(at + layout.SEGMENT_BYTES, self.index_start)]).digest() for at in starts
            )
            self.content[self.segments_start : self.seals_start] = b"".join(digests)
            for field, start, stop in (
                ("page_table_digest", self.pages_start, self.segments_start),
                ("segment_table_digest", self.segments_start, self.trailer_start),
            ):
                self.trailer[0][field] = np.frombuffer(blake3(view[start:stop]).digest(), np.uint8)
        if upto >= Seal.ROOT:
            signed = view[self.trailer_start : self.trailer_start + layout.TRAILER_SIGNED_BYTES]
            root = blake3(signed, derive_key_context=layout.ROOT_CONTEXT).digest()
            self.trailer[0]["root"] = np.frombuffer(root, np.uint8)


def _fields(structure: str, dtype: np.dtype, start: int) -> list[Part]:
    found = []
    for name in dtype.names or ():
        field, offset = dtype.fields[name][:2]
        found.append(Part(f"{structure}'s {name}", start + offset, start + offset + field.itemsize))
    return found
