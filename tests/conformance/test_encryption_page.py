"""What the format page says of encryption is enough to read an encrypted image: done here from the page alone."""

from __future__ import annotations

import base64
import json
import struct
import unicodedata
from collections import defaultdict
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from tests.unit.forge import POINT, POINT_FIELDS, RECORD, RECORD_FIELDS, Forged, take_apart
from tests.unit.tiny import BLOCK, Password, TinyVolume, noise

PASSWORD = "Grüße"
KEY_AREA = struct.Struct("<8sIIQ16s24s32s")
KEY_SLOT = struct.Struct("<IIII16s12s48s36s")
CONTEXT = "rollforward image container 1: "


class Page:
    """An encrypted image, opened as the page says."""

    def __init__(self, image: bytes, password: str) -> None:
        self.parts: Forged = take_apart(image)
        self.chain_id = self.parts.header["chain_id"]
        self.points = [POINT.pack(*(point[name] for name in POINT_FIELDS)) for point in self.parts.points]
        self.captures = [point[16:32] for point in self.points[1:]]
        self.data_key = self._open(unicodedata.normalize("NFC", password).encode())

    def _open(self, password: bytes) -> bytes:
        head, slots = self.parts.key_area[:96], self.parts.key_area[96:]
        magic, count, _, _, chain_id, _, digest = KEY_AREA.unpack(head)
        assert (magic, chain_id, len(slots)) == (b"RFKEYS1\x1a", self.chain_id, 128 * count)
        assert blake3(head[:64] + slots).digest() == digest
        for kdf, memory_kib, passes, lanes, salt, nonce, wrapped, _ in KEY_SLOT.iter_unpack(slots):
            assert kdf == 1
            argon2 = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory_kib)
            try:
                return AESGCM(argon2.derive(password)).decrypt(nonce, wrapped, chain_id)
            except InvalidTag:
                continue
        raise PermissionError

    def key(self, use: str, of: bytes = b"") -> bytes:
        return blake3(self.data_key + of, derive_key_context=CONTEXT + use).digest()

    def metadata(self) -> dict[str, object]:
        shown = json.loads(self.parts.metadata)
        cipher = AESGCM(self.key("metadata key", self.captures[-1]))
        bound = self.chain_id + shown["volume"].encode()
        return json.loads(cipher.decrypt(bytes(12), base64.b64decode(shown["encrypted"]), bound))

    def granules(self) -> dict[tuple[int, int], bytes]:
        """The plain granules of each frame that has bytes, by block and origin."""
        found = {}
        for record in self.parts.records:
            if not record["length"]:
                continue
            packed = RECORD.pack(*(record[name] for name in RECORD_FIELDS))
            capture = self.captures[record["origin"]]
            start = record["offset"] - self.parts.frames_offset
            stored = self.parts.frames[start : start + record["length"]]
            bound = self.chain_id + capture + packed[:4] + packed[20:40]
            cipher = AESGCM(self.key("frame key", capture))
            plain = cipher.decrypt(packed[:4] + bytes(8), stored, bound)
            if record["flags"] == 2:
                plain = zstandard.ZstdDecompressor().decompress(plain, max_output_size=BLOCK)
            found[record["block"], record["origin"]] = plain
        return found

    def seals(self) -> bytes:
        rows = defaultdict(blake3)
        for record in self.parts.records:
            fields = (
                record["block"],
                record["flags"] & ~8,
                record["mask_lo"],
                record["mask_hi"],
                record["digest"],
            )
            rows[record["origin"]].update(struct.pack("<IIQQ24s", *fields))
        seals = []
        for origin, point in enumerate(self.points[1:]):
            before = self.points[origin][:16] + bytes(16) + self.points[origin][32:]
            said = self.chain_id + struct.pack("<I", self.parts.header["granule_bytes"]) + before + point
            seals.append(blake3(said + rows[origin].digest(), key=self.key("seal key")).digest())
        return b"".join(seals)


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> TinyVolume:
    volume = TinyVolume(tmp_path_factory.mktemp("page"), password=Password(PASSWORD.encode()))
    for number in range(4):
        volume.raw.write_bytes(noise(BLOCK, number) + b"text" * 4096 + bytes([number % 2]) * BLOCK + b"end")
        volume.capture()
    volume.merge(0, 3, "-cd")
    return volume


def images(volume: TinyVolume) -> list[Path]:
    return sorted(volume.folder.glob("*.sp[fi]"))


def test_seals_and_metadata_are_as_the_page_says(volume: TinyVolume) -> None:
    for path in images(volume):
        page = Page(path.read_bytes(), PASSWORD)
        assert page.parts.seals == page.seals()
        assert page.metadata()["source"] == str(volume.raw)


def test_frames_are_as_the_page_says(volume: TinyVolume) -> None:
    base = Page(volume.image().read_bytes(), PASSWORD).granules()
    assert b"".join(base[block, 0] for block in sorted({block for block, _ in base}))[:BLOCK] == noise(
        BLOCK, 0
    )
    daily = Page(volume.image(3, "-cd").read_bytes(), PASSWORD)
    assert daily.granules()[0, 2] == noise(BLOCK, 3)
    assert sum(record["flags"] & 8 > 0 for record in daily.parts.records) >= 2


def test_the_key_area_is_sealed_as_the_page_says(volume: TinyVolume) -> None:
    for path in images(volume):
        page = Page(path.read_bytes(), PASSWORD)
        area = page.parts.key_area
        seal = blake3(area[:40] + area[96:], key=page.key("key area key")).digest()
        assert area[40:64] == seal[:24]


def test_the_key_file_is_the_key_area(volume: TinyVolume) -> None:
    page = Page(volume.image().read_bytes(), PASSWORD)
    assert (volume.folder / "D_VOL-b001.spk").read_bytes() == page.parts.key_area
    with pytest.raises(PermissionError):
        Page(volume.image().read_bytes(), "Grusse")
