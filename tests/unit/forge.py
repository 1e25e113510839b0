"""Takes an image apart and puts it together again, byte by byte, with every digest made to fit.

It is written from the format page alone (`docs/format.md`), with `struct` and BLAKE3, and shares nothing with the
engine: so it tells whether the engine writes what the page says, and makes images whose digests are right while
something else is not, as only a hostile or broken writer would.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from blake3 import blake3

HEADER = struct.Struct("<8sHHIIIIIIIQ16s160s")
POINT = struct.Struct("<16s16sqQIIQ")
RECORD = struct.Struct("<IIQIIQQ24s")
PAGE = struct.Struct("<32sII")
TRAILER = struct.Struct("<8s11Q32s32s32s")
ROOT_CONTEXT = "rollforward image container 1: root"

HEADER_FIELDS = [
    "magic",
    "version_major",
    "version_minor",
    "flags",
    "point_count",
    "metadata_bytes",
    "key_area_bytes",
    "granule_bytes",
    "block_bytes",
    "reserved_a",
    "zero_from_bytes",
    "chain_id",
    "reserved_b",
]
POINT_FIELDS = ["id", "capture_id", "time_us", "volume_bytes", "number", "reserved_a", "reserved_b"]
RECORD_FIELDS = ["block", "origin", "offset", "length", "flags", "mask_lo", "mask_hi", "digest"]
TRAILER_FIELDS = [
    "magic",
    "frames_offset",
    "frames_bytes",
    "index_offset",
    "record_count",
    "page_table_offset",
    "page_count",
    "segment_table_offset",
    "segment_count",
    "plain_bytes",
    "file_bytes",
    "reserved",
    "header_digest",
    "page_table_digest",
    "segment_table_digest",
]


@dataclass
class Forged:
    """An image in parts. Whatever is changed, `seal` makes the digests fit; what is in `lies` is written as it is.

    Attributes:
        header: the fixed part's fields.
        points: the point table, the from point first.
        metadata: as it is stored.
        key_area: as it is stored.
        records: the index.
        frames: the stored stream.
        seals: of the points, as they are stored; none in a plain image.
        lies: fields of the trailer that are written otherwise than they should be.
        page_lies: (page, first_block, last_block), likewise.
    """

    header: dict[str, int | bytes]
    points: list[dict[str, int | bytes]]
    metadata: bytes
    key_area: bytes
    records: list[dict[str, int | bytes]]
    frames: bytes
    seals: bytes = b""
    lies: dict[str, int | bytes] = field(default_factory=dict)
    page_lies: list[tuple[int, int, int]] = field(default_factory=list)

    def seal(self) -> bytes:
        """Lay the image out."""
        points = b"".join(_pack(POINT, POINT_FIELDS, point) for point in self.points)
        fixed = _pack(HEADER, HEADER_FIELDS, self.header)
        header_digest = blake3(fixed + points + self.metadata).digest()
        head = fixed + header_digest + points + self.metadata + self.key_area
        packed = [_pack(RECORD, RECORD_FIELDS, record) for record in self.records]
        page_table = self._page_table(packed)
        segments = b"".join(
            blake3(self.frames[at : at + 2**20]).digest() for at in range(0, len(self.frames), 2**20)
        )
        at = len(head)
        told: dict[str, int | bytes] = {"magic": b"RFTRAIL\x1a", "frames_offset": at}
        told |= {"frames_bytes": len(self.frames), "index_offset": (at := at + len(self.frames))}
        told |= {"record_count": len(packed), "page_table_offset": (at := at + 64 * len(packed))}
        told |= {"page_count": len(page_table) // 40, "segment_table_offset": (at := at + len(page_table))}
        told |= {"segment_count": len(segments) // 32, "plain_bytes": self.plain_bytes()}
        told |= {"file_bytes": at + len(segments) + len(self.seals) + 224}
        told |= {"reserved": 0, "header_digest": header_digest}
        told |= {
            "page_table_digest": blake3(page_table).digest(),
            "segment_table_digest": blake3(segments + self.seals).digest(),
        }
        signed = _pack(TRAILER, TRAILER_FIELDS, told | self.lies)
        root = blake3(signed, derive_key_context=ROOT_CONTEXT).digest()
        return b"".join((head, self.frames, *packed, page_table, segments, self.seals, signed, root))

    def _page_table(self, packed: list[bytes]) -> bytes:
        pages = []
        for first in range(0, len(packed), 1024):
            rows = self.records[first : first + 1024]
            digest = blake3(b"".join(packed[first : first + 1024])).digest()
            pages.append([digest, rows[0]["block"], rows[-1]["block"]])
        for page, first_block, last_block in self.page_lies:
            if page < len(pages):
                pages[page][1:] = [first_block, last_block]
        return b"".join(PAGE.pack(*page) for page in pages)

    def plain_bytes(self) -> int:
        granules = sum(
            bin(int(record["mask_lo"])).count("1") + bin(int(record["mask_hi"])).count("1")
            for record in self.records
            if not int(record["flags"]) & 8
        )
        return granules * int(self.header["granule_bytes"])

    def replace_frame(self, row: int, stored: bytes, **changes: int) -> None:
        """Put other stored bytes in the place of a frame's, and let its record and all later ones agree."""
        record = self.records[row]
        start = int(record["offset"]) - self.frames_offset
        self.frames = self.frames[:start] + stored + self.frames[start + int(record["length"]) :]
        shift = len(stored) - int(record["length"])
        record.update(changes, length=len(stored), digest=blake3(stored).digest(24))
        for later in self.records[row + 1 :]:
            later["offset"] = (int(later["offset"]) + shift) % 2**64

    @property
    def frames_offset(self) -> int:
        return 256 + 64 * len(self.points) + len(self.metadata) + len(self.key_area)

    def put_metadata(self, metadata: bytes) -> None:
        """Change the metadata, and what depends on its length."""
        shift = len(metadata) - len(self.metadata)
        self.metadata = metadata
        self.header["metadata_bytes"] = len(metadata)
        for record in self.records:
            record["offset"] = (int(record["offset"]) + shift) % 2**64


def take_apart(image: bytes) -> Forged:
    """Read a good image."""
    header = _unpack(HEADER, HEADER_FIELDS, image)
    at = 256
    points = [_unpack(POINT, POINT_FIELDS, image, at + 64 * row) for row in range(int(header["point_count"]))]
    at += 64 * len(points)
    metadata = image[at : (at := at + int(header["metadata_bytes"]))]
    key_area = image[at : (at := at + int(header["key_area_bytes"]))]
    trailer = _unpack(TRAILER, TRAILER_FIELDS, image, len(image) - 224)
    frames = image[at : at + int(trailer["frames_bytes"])]
    at = int(trailer["index_offset"])
    records = [
        _unpack(RECORD, RECORD_FIELDS, image, at + 64 * row) for row in range(int(trailer["record_count"]))
    ]
    seals = image[int(trailer["segment_table_offset"]) + 32 * int(trailer["segment_count"]) : -224]
    return Forged(header, points, metadata, key_area, records, frames, seals)


def sections(image: bytes) -> dict[str, range]:
    """Say where each part of a good image lies."""
    header = _unpack(HEADER, HEADER_FIELDS, image)
    trailer = _unpack(TRAILER, TRAILER_FIELDS, image, len(image) - 224)
    points_end = 256 + 64 * int(header["point_count"])
    edges = {
        "fixed header": 0,
        "points": 256,
        "metadata": points_end,
        "frames": int(trailer["frames_offset"]),
        "index": int(trailer["index_offset"]),
        "page table": int(trailer["page_table_offset"]),
        "segment table": int(trailer["segment_table_offset"]),
        "trailer": len(image) - 224,
    }
    ends = [*list(edges.values())[1:], len(image)]
    return {name: range(start, end) for (name, start), end in zip(edges.items(), ends, strict=True)}


def many_zero_frames(image: bytes, count: int) -> Forged:
    """Make an image of `count` frames without bytes, more than a page of the index holds."""
    forged = take_apart(image)
    forged.frames = b""
    digest = blake3(b"").digest(24)
    fields = {
        "origin": 0,
        "offset": forged.frames_offset,
        "length": 0,
        "flags": 0,
        "mask_lo": 1,
        "mask_hi": 0,
    }
    forged.records = [{"block": block, **fields, "digest": digest} for block in range(count)]
    forged.points[1]["volume_bytes"] = count * int(forged.header["block_bytes"])
    return forged


def _pack(layout: struct.Struct, names: list[str], fields: Mapping[str, int | bytes]) -> bytes:
    return layout.pack(*(fields[name] for name in names))


def _unpack(layout: struct.Struct, names: list[str], image: bytes, at: int = 0) -> dict[str, int | bytes]:
    return dict(zip(names, layout.unpack_from(image, at), strict=True))
