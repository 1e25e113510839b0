"""A second reader of images, written from docs/format.md alone, plainly and without hurry.

It shares no line with the project and asks for nothing but blake3 and zstandard, and for cryptography where a chain
is encrypted. It exists to keep the page honest: where the page and the project part, this reader and the project
disagree, and a test fails.

    [PASSWORD=...] python second_reader.py POINT-NUMBER OUT.raw IMAGE...
"""

import base64
import json
import os
import re
import struct
import sys
import unicodedata
from pathlib import Path
from typing import BinaryIO, NamedTuple

import zstandard
from blake3 import blake3

HEADER = struct.Struct("<8sHHIIIIIIIQ16s160s32s")
POINT = struct.Struct("<16s16sqQIIQ")
RECORD = struct.Struct("<IIQII16s24s")
PAGE_ENTRY = struct.Struct("<32sII")
TRAILER = struct.Struct("<8s11Q32s32s32s32s")
KEY_AREA = struct.Struct("<8sIIQ16s24s32s")
KEY_SLOT = struct.Struct("<4I16s12s48s36s")
CONTEXT = "rollforward image container 1: "
NOTHING = bytes(16)
MIB = 1 << 20
TIME_END_US = 221_845_392_000_000_000  # 9000-01-01 UTC
BASE_FLAG, ENCRYPTED_FLAG = 1, 2
ZERO, RAW, ZSTD, TRACE = 0, 1, 2, 8
TAG_BYTES = 16


class NotAnImageError(Exception):
    """The bytes are not what the page says they are."""


class Point(NamedTuple):
    id: bytes
    capture_id: bytes
    time_us: int
    volume_bytes: int
    number: int


class Record(NamedTuple):
    block: int
    origin: int
    offset: int
    length: int
    flags: int
    mask: int
    digest: bytes

    @property
    def coding(self) -> int:
        return self.flags & ~TRACE

    @property
    def is_trace(self) -> bool:
        return bool(self.flags & TRACE)

    @property
    def granules(self) -> list[int]:  # those that are present, ascending
        return [granule for granule in range(128) if self.mask >> granule & 1]


def need(truth: object, what: str) -> None:
    if not truth:
        raise NotAnImageError(what)


def parse_metadata(packed: bytes) -> dict[str, object]:
    try:
        metadata = json.loads(packed.decode("utf-8"))
        json.dumps(metadata, ensure_ascii=False).encode("utf-8")  # refuses unpaired surrogates
    except (ValueError, RecursionError) as error:
        raise NotAnImageError(f"metadata: {error}") from error
    need(isinstance(metadata, dict), "metadata")
    return metadata  # type: ignore[no-any-return]


def unsealed(key: bytes, nonce: bytes, stored: bytes, bound: bytes) -> bytes:
    """Decrypt with AES-256-GCM."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(key).decrypt(nonce, stored, bound)
    except (InvalidTag, ValueError) as error:
        raise NotAnImageError("does not decrypt") from error


def data_key_of(area: bytes, chain_id: bytes, password: str) -> bytes:
    """Return the data key, from a key area or a key file."""
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    need(len(area) >= KEY_AREA.size, "key area")
    magic, count, reserved, generation, for_chain, _seal, digest = KEY_AREA.unpack_from(area)
    need(magic == b"RFKEYS1\x1a" and 1 <= count <= 8 and generation, "key area")
    need(not reserved, "a feature of a later version")
    need(for_chain == chain_id and len(area) == KEY_AREA.size + count * KEY_SLOT.size, "key area")
    need(blake3(area[:64] + area[KEY_AREA.size :]).digest() == digest, "digest of the key area")
    for kdf, memory, passes, lanes, salt, nonce, wrapped, rest in KEY_SLOT.iter_unpack(area[KEY_AREA.size :]):
        need(kdf == 1 and 1 <= lanes <= 16 and passes and not any(rest), "key slot")
        need(8 * lanes <= memory <= 262_144 and memory * passes <= 1_048_576, "cost of a key slot")
        derivation = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory)
        key = derivation.derive(unicodedata.normalize("NFC", password).encode("utf-8"))
        try:
            return unsealed(key, nonce, wrapped, chain_id)
        except NotAnImageError:
            continue
    raise NotAnImageError("the password opens no slot")


def parts_of(path: Path) -> list[Path]:
    """The files of an image: the first part, and those that follow it without a gap."""
    is_full = re.fullmatch(r".*-b\d+-i\d+\.spf", path.name) is not None
    stem = path.name if is_full else path.stem
    found = [path]
    while (part := path.with_name(f"{stem}.sp{len(found)}")).exists():
        found.append(part)
    return found


class SecondReader:
    """One image: all but the frames is checked when it is made, with a password also what that proves."""

    def __init__(self, path: Path, password: str | None = None) -> None:
        self.parts = [(part, part.stat().st_size) for part in parts_of(path)]
        sizes = [size for _, size in self.parts]
        need(all(size == sizes[0] for size in sizes[:-1]) and sizes[-1] <= sizes[0], "sizes of the parts")
        need(len(sizes) == 1 or sizes[-1] > 0, "an empty part")
        self.size = sum(sizes)
        self._read_trailer()
        self._read_header()
        self._read_points()
        self._read_segments()
        self.records = list(self._read_index())
        self._check_traces()
        self.data_key: bytes | None = None
        if self.encrypted and password is not None:
            self.data_key = data_key_of(self.key_area, self.chain_id, password)
            self._check_seals()
            self._open_metadata()

    def bytes_at(self, offset: int, length: int) -> bytes:
        found, begin = b"", 0
        for part, size in self.parts:
            if begin < offset + length and offset < begin + size:
                with part.open("rb") as file:
                    file.seek(max(offset - begin, 0))
                    found += file.read(offset + length - max(offset, begin))
            begin += size
        need(len(found) == length, "the file ends too soon")
        return found

    def _read_trailer(self) -> None:
        need(self.size >= HEADER.size + TRAILER.size, "too short")
        raw = self.bytes_at(self.size - TRAILER.size, TRAILER.size)
        (magic, self.frames_at, self.frames_bytes, self.index_at, self.record_count, self.pages_at, self.page_count,
         self.segments_at, self.segment_count, self.plain_bytes, file_bytes, reserved, self.header_digest,
         self.pages_digest, self.segments_digest, self.root) = TRAILER.unpack(raw)  # fmt: skip
        need(magic == b"RFTRAIL\x1a" and reserved == 0, "trailer")
        need(blake3(raw[:192], derive_key_context=CONTEXT + "root").digest() == self.root, "root")
        need(file_bytes == self.size, "file size")
        need(
            self.index_at == self.frames_at + self.frames_bytes, "the stored stream and the index do not meet"
        )
        need(
            self.pages_at == self.index_at + self.record_count * RECORD.size,
            "the index and the pages do not meet",
        )
        need(
            self.segments_at == self.pages_at + self.page_count * PAGE_ENTRY.size,
            "pages and segments do not meet",
        )
        seals_at = self.segments_at + self.segment_count * 32
        need(seals_at <= self.size - TRAILER.size, "the segments do not fit")
        self.seals = self.bytes_at(seals_at, self.size - TRAILER.size - seals_at)
        need(self.page_count == -(-self.record_count // 1024), "page count")
        need(self.segment_count == -(-self.frames_bytes // MIB), "segment count")

    def _read_header(self) -> None:
        raw = self.bytes_at(0, HEADER.size)
        (magic, major, _minor, self.flags, self.point_count, metadata_bytes, key_area_bytes,
         self.granule_bytes, self.block_bytes, reserved, self.zero_from_bytes, self.chain_id, more,
         digest) = HEADER.unpack(raw)  # fmt: skip
        need(magic == b"RFIMAGE\x1a" and major == 1, "not an image of version 1")
        unknown = self.flags & ~(BASE_FLAG | ENCRYPTED_FLAG)
        need(unknown == 0 and reserved == 0 and not any(more), "a feature of a later version")
        self.encrypted = bool(self.flags & ENCRYPTED_FLAG)
        need(
            2 <= self.point_count <= 262_144 and metadata_bytes <= 4 * MIB and key_area_bytes <= MIB, "counts"
        )
        need(self.granule_bytes in [1 << power for power in range(9, 17)], "granule size")
        need(self.block_bytes == 128 * self.granule_bytes, "block size")
        points_bytes = self.point_count * POINT.size
        need(
            self.frames_at == HEADER.size + points_bytes + metadata_bytes + key_area_bytes,
            "where frames begin",
        )
        covered = raw[:224] + self.bytes_at(HEADER.size, points_bytes + metadata_bytes)
        need(blake3(covered).digest() == digest == self.header_digest, "header digest")
        need(len(self.seals) == (32 * (self.point_count - 1) if self.encrypted else 0), "seals")
        self.key_area = self.bytes_at(self.frames_at - key_area_bytes, key_area_bytes)
        self.points_raw = covered[224 : 224 + points_bytes]
        self.metadata = parse_metadata(covered[224 + points_bytes :])

    def _read_points(self) -> None:
        rows = list(POINT.iter_unpack(self.points_raw))
        need(all(row[5] == row[6] == 0 for row in rows), "reserved bytes of a point")
        self.origin_point, *self.covered = [Point(*row[:5]) for row in rows]
        self.base = bool(self.flags & BASE_FLAG)
        need(self.origin_point.capture_id == NOTHING, "capture of the from point")
        need(not self.base or rows[0] == (NOTHING, NOTHING, 0, 0, 0, 0, 0), "from point of a base")
        points = rows[1:] if self.base else rows
        need(len({row[0] for row in points}) == len(points), "a point occurs twice")
        need(all(0 <= row[2] < TIME_END_US for row in points), "time of a point")
        need(all(row[3] <= 0xFFFFFFFF * self.block_bytes for row in rows), "volume size")
        need(
            self.zero_from_bytes == min(row[3] for row in rows), "zero from"
        )  # 0 for a base, by its first entry

    def _read_segments(self) -> None:
        table = self.bytes_at(self.segments_at, self.segment_count * 32)
        need(blake3(table + self.seals).digest() == self.segments_digest, "segment table")
        for number in range(self.segment_count):
            begin = number * MIB
            segment = self.bytes_at(self.frames_at + begin, min(MIB, self.frames_bytes - begin))
            need(blake3(segment).digest() == table[number * 32 : number * 32 + 32], f"segment {number}")

    def _read_index(self):  # type: ignore[no-untyped-def]
        table = self.bytes_at(self.pages_at, self.page_count * PAGE_ENTRY.size)
        need(blake3(table).digest() == self.pages_digest, "page table")
        end, before, plain = self.frames_at, (-1, 0), 0
        for number, (digest, first, last) in enumerate(PAGE_ENTRY.iter_unpack(table)):
            count = min(1024, self.record_count - number * 1024)
            page = self.bytes_at(self.index_at + number * 1024 * RECORD.size, count * RECORD.size)
            need(blake3(page).digest() == digest, f"page {number}")
            rows = list(RECORD.iter_unpack(page))
            need((rows[0][0], rows[-1][0]) == (first, last), f"blocks of page {number}")
            for row in rows:
                record = Record(*row[:5], int.from_bytes(row[5], "little"), row[6])
                need(before < (record.block, -record.origin), "order of the index")
                need(record.offset == end, "frames do not follow each other")
                self._check_record(record)
                end, before = end + record.length, (record.block, -record.origin)
                plain += 0 if record.is_trace else len(record.granules) * self.granule_bytes
                yield record
        need(end == self.index_at and plain == self.plain_bytes, "the frames do not fill the stored stream")

    def _check_record(self, record: Record) -> None:
        need(record.origin < len(self.covered), "origin")
        need(record.granules, "an empty mask")
        last_begin = self.begin_of(record.block, record.granules[-1])
        need(last_begin < self.covered[record.origin].volume_bytes, "a granule beyond the volume")
        plain = len(record.granules) * self.granule_bytes
        packed = record.length - (TAG_BYTES if self.encrypted else 0)
        fits = {ZERO: record.length == 0, RAW: packed == plain, ZSTD: 0 < packed < plain}
        if record.is_trace:
            need(self.encrypted, "a trace in a plain image")
            fits = dict.fromkeys(fits, record.length == 0)
        need(fits.get(record.coding), "length of a frame")

    def _check_traces(self) -> None:
        """What newer frames and cuts leave of a trace must be nothing."""
        block, hidden = -1, 0
        for record in self.records:
            if record.block != block:
                block, hidden = record.block, 0
            cut = self.cut_of(record.origin)
            counting = [g for g in record.granules if cut is None or self.begin_of(block, g) < cut]
            need(not record.is_trace or all(hidden >> g & 1 for g in counting), "a trace that is not hidden")
            hidden |= sum(1 << g for g in counting)

    def begin_of(self, block: int, granule: int) -> int:
        return block * self.block_bytes + granule * self.granule_bytes

    def cut_of(self, origin: int) -> int | None:
        return min([point.volume_bytes for point in self.covered[origin + 1 :]], default=None)

    def derived(self, context: str, of: bytes = b"") -> bytes:
        need(self.data_key is not None, "a password is needed")
        return blake3((self.data_key or b"") + of, derive_key_context=CONTEXT + context).digest()

    def _check_seals(self) -> None:
        raw, size = self.points_raw, POINT.size
        for origin in range(len(self.covered)):
            before, own = (
                raw[origin * size : (origin + 1) * size],
                raw[(origin + 1) * size : (origin + 2) * size],
            )
            rows = blake3()
            for record in self.records:
                if record.origin == origin:
                    mask = record.mask.to_bytes(16, "little")
                    rows.update(struct.pack("<II16s24s", record.block, record.coding, mask, record.digest))
            sealed = (
                self.chain_id + self.granule_bytes.to_bytes(4, "little") + before[:16] + NOTHING + before[32:]
            )
            seal = blake3(sealed + own + rows.digest(), key=self.derived("seal key")).digest()
            need(seal == self.seals[origin * 32 : origin * 32 + 32], f"seal of point {origin}")

    def has_genuine_slots(self) -> bool:
        """Whether somebody with the key wrote the copy of the key slots; nothing that is read depends on it."""
        sealed = self.key_area[:40] + self.key_area[KEY_AREA.size :]
        return blake3(sealed, key=self.derived("key area key")).digest()[:24] == self.key_area[40:64]

    def _open_metadata(self) -> None:
        volume, stored = self.metadata.get("volume"), self.metadata.get("encrypted")
        need(isinstance(volume, str) and isinstance(stored, str), "encrypted metadata")
        key = self.derived("metadata key", self.covered[-1].capture_id)
        bound = self.chain_id + str(volume).encode("utf-8")
        self.metadata = parse_metadata(unsealed(key, bytes(12), base64.b64decode(str(stored)), bound))

    def plain(self, record: Record) -> bytes:
        """The present granules of a frame, one after the other."""
        stored = self.bytes_at(record.offset, record.length)
        need(blake3(stored).digest()[:24] == record.digest, "frame digest")
        length = len(record.granules) * self.granule_bytes
        if record.coding == ZERO:
            return bytes(length)
        if self.encrypted:
            capture_id = self.covered[record.origin].capture_id
            bound = struct.pack("<16s16sII", self.chain_id, capture_id, record.block, record.flags)
            bound += record.mask.to_bytes(16, "little")
            nonce = record.block.to_bytes(4, "little") + bytes(8)
            stored = unsealed(self.derived("frame key", capture_id), nonce, stored, bound)
        if record.coding == RAW:
            return stored
        try:
            need(zstandard.frame_content_size(stored) in (-1, length), "content size")
            found = zstandard.ZstdDecompressor().decompress(stored, length, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise NotAnImageError(f"frame: {error}") from error
        need(len(found) == length, "length of a frame's content")
        return found

    def apply(self, disk: BinaryIO) -> None:
        """Bring a disk that stands at the from point, or a covered one, to the image's end."""
        disk.truncate(self.zero_from_bytes)
        disk.truncate(self.covered[-1].volume_bytes)
        frames = [record for record in self.records if not record.is_trace]
        for record in sorted(frames, key=lambda record: record.origin):  # oldest first: newer ones win
            content, cut = self.plain(record), self.cut_of(record.origin)
            for place, granule in enumerate(record.granules):
                begin = self.begin_of(record.block, granule)
                piece = content[place * self.granule_bytes : (place + 1) * self.granule_bytes]
                if cut is None or begin < cut:
                    disk.seek(begin)
                    disk.write(piece[: max(0, self.covered[-1].volume_bytes - begin)])


def way_to(point_id: bytes, images: list[SecondReader]) -> list[SecondReader]:
    """Images that lead from nothing to a point, in order."""
    for image in (image for image in images if image.covered[-1].id == point_id):
        if image.base:
            return [image]
        for held in [image.origin_point, *image.covered[:-1]]:
            if way := way_to(held.id, [other for other in images if other is not image]):
                return [*way, image]
    return []


def write_point(point_id: bytes, images: list[SecondReader], target: Path) -> None:
    """Write the raw bytes of one point of a chain."""
    way = way_to(point_id, images)
    need(way, "no way leads there")
    alike = {(image.chain_id, image.granule_bytes, image.encrypted) for image in way}
    need(len(alike) == 1, "images of several chains")
    with target.open("w+b") as disk:
        for image in way:
            image.apply(disk)


if __name__ == "__main__":
    readers = [SecondReader(Path(name), os.environ.get("PASSWORD")) for name in sys.argv[3:]]
    ids = {reader.covered[-1].id for reader in readers if reader.covered[-1].number == int(sys.argv[1])}
    need(len(ids) == 1, f"point {sys.argv[1]} occurs {len(ids)} times")
    write_point(ids.pop(), readers, Path(sys.argv[2]))
