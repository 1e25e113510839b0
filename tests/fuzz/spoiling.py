"""Making bad images: bytes changed anywhere, or fields changed and every digest made to fit again.

Random bytes alone never get past the first digest. So most cases are taken apart, changed in their structure, and
sealed again, as a hostile writer would.
"""

from __future__ import annotations

import struct

from blake3 import blake3

from tests.fuzz.decisions import Decisions
from tests.unit.forge import HEADER_FIELDS, POINT_FIELDS, RECORD_FIELDS, TRAILER_FIELDS, Forged, take_apart

WIDE = {"offset", "mask_lo", "mask_hi", "zero_from_bytes", "volume_bytes", "reserved_b", "time_us"}
TOLD = {"magic", "point_count", "metadata_bytes", "key_area_bytes"}
METADATA = (
    b"",
    b"{}",
    b"[]",
    b'{"volume":[1]}',
    b'{"a":NaN}',
    b'{"a":1e999}',
    b"\xff",
    b"[" * 5000,
    b'{"a":"\\ud800"}',
)
_DIGEST_AT, _SLOTS_AT, _SLOT_BYTES = 64, 96, 128
_SLOT_FIELDS = (8, 12, 24, 96, 100, 104, 108, 188)
"""Numbers of the head and of the first slot: how many slots, reserved, chain, kind, memory, passes, lanes, reserved."""
STORED_BYTES_MAX = 600
ROWS_MAX = 3000
"""More than two pages of an index."""


def spoilt(image: bytes, decide: Decisions) -> bytes:
    """Return an image otherwise than it was.

    Args:
        image: a good one.
        decide: says how.
    """
    content = image
    if decide.below(4):
        forged = take_apart(image)
        for _ in range(1 + decide.below(4)):
            _change_structure(forged, decide)
        content = forged.seal()
    if not decide.below(3):
        content = _change_bytes(bytearray(content), decide)
    return content


def spoilt_slots(packed: bytes, decide: Decisions) -> bytes:
    """Return key slots otherwise than they were: bytes changed anywhere, or fields changed and the digest made to fit.

    Args:
        packed: good ones, as a key file or a key area.
        decide: says how.
    """
    if not decide.below(3):
        return _change_bytes(bytearray(packed), decide)
    content = bytearray(packed)
    for _ in range(1 + decide.below(3)):
        kind, slots = decide.below(4), bytes(content[_SLOTS_AT:])
        if kind == 0:
            content += slots[:_SLOT_BYTES] * decide.below(9)
            struct.pack_into("<I", content, 8, (len(content) - _SLOTS_AT) // _SLOT_BYTES)
        elif kind == 1:
            at = decide.choose(_SLOT_FIELDS)
            struct.pack_into("<I", content, at, decide.number(32, struct.unpack_from("<I", content, at)[0]))
        elif kind == 2:
            struct.pack_into("<Q", content, 16, decide.number(64, 1))
        else:
            at = decide.below(len(content))
            content[at : at + 1] = decide.take(1)
    content[_DIGEST_AT:_SLOTS_AT] = blake3(bytes(content[:_DIGEST_AT] + content[_SLOTS_AT:])).digest()
    return bytes(content)


def _change_bytes(content: bytearray, decide: Decisions) -> bytes:
    """Flip, overwrite, cut, append or move bytes; no digest is mended."""
    for _ in range(1 + decide.below(3)):
        at = decide.below(max(len(content), 1))
        kind = decide.below(5)
        if kind == 0 and content:
            content[at] ^= 1 << decide.below(8)
        elif kind == 1:
            piece = decide.take(1 + decide.below(32))
            content[at : at + len(piece)] = piece
        elif kind == 2:
            del content[at:]
        elif kind == 3:
            content += decide.take(decide.below(300))
        else:
            start = decide.below(max(len(content), 1))
            content[at:at] = content[start : start + decide.below(512)]
    return bytes(content)


def _change_structure(image: Forged, decide: Decisions) -> None:
    kinds = [_field_of_header, _field_of_point, _sizes, _points, _metadata, _key_area, _trailer, _many_rows]
    if image.records:
        kinds += [_field_of_record, _field_of_record, _page, _frame, _frame, _rows, _masks]
    decide.choose(kinds)(image, decide)


def _change_field(fields: dict[str, int | bytes], choices: list[str], decide: Decisions) -> None:
    name = decide.choose(choices)
    now = fields[name]
    if isinstance(now, bytes):
        fields[name] = decide.take(len(now))
        return
    if name == "time_us":
        fields[name] = decide.number(64, now % 2**64) - 2**63
        return
    fields[name] = decide.number(64 if name in WIDE else 16 if name.startswith("version") else 32, now)


def _field_of_header(image: Forged, decide: Decisions) -> None:
    if decide.below(3) == 0:
        size = decide.choose([512, 1024, 4096, 65_536])
        image.header |= {"granule_bytes": size, "block_bytes": size * 128}
    elif decide.below(3) == 0:
        image.header["flags"] = decide.below(8)
    else:
        _change_field(image.header, [name for name in HEADER_FIELDS if name not in TOLD], decide)


def _field_of_point(image: Forged, decide: Decisions) -> None:
    _change_field(decide.choose(image.points), POINT_FIELDS, decide)


def _sizes(image: Forged, decide: Decisions) -> None:
    """Other volume sizes, and a header that agrees with them."""
    is_base = int(image.header["flags"]) & 1
    for point in image.points[is_base:]:
        point["volume_bytes"] = decide.number(decide.choose([24, 40, 64]), int(point["volume_bytes"]))
    if not is_base:
        image.header["zero_from_bytes"] = min(int(point["volume_bytes"]) for point in image.points)


def _points(image: Forged, decide: Decisions) -> None:
    """More points, or fewer; a header that knows how many there are."""
    before = len(image.points)
    if decide.below(2) and before > 2:
        image.points.pop(decide.below(before))
    else:
        for _ in range(1 + decide.below(100)):
            image.points.append(image.points[-1] | {"id": blake3(decide.take(4)).digest(16)})
    image.header["point_count"] = len(image.points)
    _shift(image, 64 * (len(image.points) - before))


def _metadata(image: Forged, decide: Decisions) -> None:
    image.put_metadata(decide.choose(METADATA) if decide.below(2) else decide.take(decide.below(200)))


def _key_area(image: Forged, decide: Decisions) -> None:
    key_area = decide.take(decide.choose([0, 1, 96, 224, 352, 4096]))
    if image.key_area and decide.below(2):
        key_area = spoilt_slots(image.key_area, decide)
    shift = len(key_area) - len(image.key_area)
    image.key_area = key_area
    image.header["key_area_bytes"] = len(key_area)
    _shift(image, shift)


def _trailer(image: Forged, decide: Decisions) -> None:
    name = decide.choose(TRAILER_FIELDS[1:12])
    image.lies[name] = decide.number(64, 0)


def _field_of_record(image: Forged, decide: Decisions) -> None:
    _change_field(decide.choose(image.records), RECORD_FIELDS, decide)


def _masks(image: Forged, decide: Decisions) -> None:
    record = decide.choose(image.records)
    record |= {"mask_lo": decide.number(64, int(record["mask_lo"])), "mask_hi": decide.number(64, 0)}


def _page(image: Forged, decide: Decisions) -> None:
    image.page_lies.append((decide.below(3), decide.number(32, 0), decide.number(32, 3)))


def _frame(image: Forged, decide: Decisions) -> None:
    """Other stored bytes: garbage, or a frame of Zstandard that is not what it should be."""
    row = decide.below(len(image.records))
    record = image.records[row]
    start, length = int(record["offset"]) - image.frames_offset, int(record["length"])
    if not 0 <= start <= len(image.frames) or length > 2**20:
        return
    stored = bytearray(image.frames[start : start + length])
    for _ in range(decide.below(4)):
        if stored:
            stored[decide.below(len(stored))] = decide.below(256)
    if decide.below(3) == 0:
        stored = bytearray(decide.take(decide.below(STORED_BYTES_MAX)))
    elif decide.below(3) == 0:
        stored = bytearray(_zstandard_frame(decide))
    image.replace_frame(
        row, bytes(stored), flags=decide.below(4) if decide.below(2) else int(record["flags"])
    )


def _zstandard_frame(decide: Decisions) -> bytes:
    """Give a frame with a header of our choice (RFC 8878, 3.1.1) and blocks that repeat a byte ever so often."""
    frame = b"\x28\xb5\x2f\xfd" + bytes([decide.below(256)]) + decide.take(decide.below(14))
    for _ in range(decide.below(6)):
        size, kind = decide.below(2**17), decide.below(4)
        frame += (size << 3 | kind << 1 | decide.below(2)).to_bytes(3, "little") + decide.take(1)
    return frame


def _rows(image: Forged, decide: Decisions) -> None:
    row = decide.below(len(image.records))
    if decide.below(2):
        image.records.pop(row)
    else:
        image.records.insert(row, dict(image.records[row]))


def _many_rows(image: Forged, decide: Decisions) -> None:
    """An index of several pages, of frames without bytes."""
    block = max((int(record["block"]) for record in image.records), default=0)
    fields = {"origin": 0, "offset": image.frames_offset + len(image.frames), "length": 0, "flags": 0}
    fields |= {"mask_lo": 1, "mask_hi": 0}
    step = 1 + decide.below(3)
    for number in range(decide.below(ROWS_MAX)):
        place = (block + 1 + number * step) % 2**32
        image.records.append({"block": place, **fields, "digest": blake3(b"").digest(24)})
    largest = (block + 2 + ROWS_MAX * step) * int(image.header["block_bytes"])
    image.points[-1]["volume_bytes"] = min(largest, 2**48)


def _shift(image: Forged, shift: int) -> None:
    for record in image.records:
        record["offset"] = (int(record["offset"]) + shift) % 2**64
