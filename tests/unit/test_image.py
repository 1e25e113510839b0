"""Reading and verifying one image: good ones, damaged ones, and ones that somebody made on purpose."""

from __future__ import annotations

import os
import struct
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import (
    DigestMismatchError,
    FormatError,
    NotAnImageError,
    RollforwardError,
    StorageError,
    TruncatedError,
    UnsupportedVersionError,
)
from storage import layout
from storage.codec import decode_frame, encode_frame
from storage.consolidate import consolidate
from storage.image import ImageReader
from storage.overlay import Overlay
from storage.replay import BlockReader
from storage.verify import Verified, verify_image
from tests.unit.forge import TRAILER_FIELDS, Forged, many_zero_frames, sections, take_apart
from tests.unit.tiny import BLOCK, GRANULE, TinyVolume, noise, open_files


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A base, an incremental, an incremental without changes, a daily, and a base that holds nothing."""
    tiny = TinyVolume(tmp_path_factory.mktemp("images"))
    base = noise(BLOCK, 1) + b"text " * 20_000 + bytes(BLOCK) + noise(700, 2)
    changed = bytearray(base)
    changed[1000:1600] = noise(600, 3)
    changed[70_000:80_000] = b"x" * 10_000
    changed[139_776:150_016] = bytes(10_240)  # whole granules
    again = bytearray(changed)
    again[1000:1100] = b"y" * 100
    tiny.capture_states([base, bytes(changed), bytes(changed), bytes(again)])
    tiny.merge(0, 3, "-cd")
    blank = TinyVolume(tmp_path_factory.mktemp("blank"))
    blank.capture_states([bytes(1000)])
    return {
        "base": tiny.image().read_bytes(),
        "incremental": tiny.image(1).read_bytes(),
        "unchanged": tiny.image(2).read_bytes(),
        "daily": tiny.image(3, "-cd").read_bytes(),
        "blank": blank.image().read_bytes(),
    }


@pytest.fixture
def place(quick_path: Path) -> Callable[[bytes], Path]:
    """Write bytes to a file that bears the name of an image."""

    def write(content: bytes) -> Path:
        path = quick_path / "D_VOL-b001-i001.spi"
        path.write_bytes(content)
        return path

    return write


def use(path: Path) -> None:
    """Read all that a restore reads: opening, every index page, every frame, the segment table."""
    with Overlay([path]) as overlay:
        for _ in BlockReader(overlay).stripes():
            pass


@pytest.mark.parametrize("name", ["base", "incremental", "unchanged", "daily", "blank"])
def test_good_images_are_good(images, place, name):
    path = place(images[name])
    for deep in (False, True):
        found = verify_image(path, deep=deep)
        assert (found.status, found.reason) == ("good", None)
        assert found.stored_bytes == len(images[name])
        assert found.root == images[name][-32:]
        assert found.changed_bytes == take_apart(images[name]).plain_bytes()
        assert found.header is not None
    use(path)


@pytest.mark.parametrize("name", ["base", "incremental", "unchanged", "daily", "blank"])
def test_the_engine_writes_what_the_format_page_says(images, name):
    assert take_apart(images[name]).seal() == images[name]


def test_every_coding_is_in_play(images):
    flags = {record["flags"] for name in images for record in take_apart(images[name]).records}
    assert flags == {layout.FRAME_ZERO, layout.FRAME_RAW, layout.FRAME_ZSTD}


def test_the_reader_says_what_the_image_holds(images, place):
    with ImageReader(place(images["daily"])) as image:
        forged = take_apart(images["daily"])
        assert (image.record_count, image.plain_bytes) == (len(forged.records), forged.plain_bytes())
        assert image.root == images["daily"][-32:]
        assert image.stored_bytes == len(images["daily"])
        records = image.read_pages(0, 1)
        for name in ("block", "origin", "offset", "length", "flags", "mask_lo", "mask_hi"):
            assert records[name].tolist() == [record[name] for record in forged.records]
        assert [len(piece) for piece in image.iter_records()] == [len(forged.records)]


# --- damage


@pytest.mark.parametrize("name", ["incremental", "unchanged"])
def test_a_flipped_byte_anywhere_is_noticed(images, place, name):
    """Every byte of the small parts, and of the frames every 17th."""
    image = images[name]
    frames = sections(image)["frames"]
    for at in range(len(image)):
        if at in frames and at % 17:
            continue
        path = place(image[:at] + bytes([image[at] ^ 1 << at % 8]) + image[at + 1 :])
        found = verify_image(path, from_medium=False)
        assert found.status == "bad", f"byte {at} was not noticed"
        assert found.reason
        with pytest.raises(FormatError) as caught:
            use(path)
        assert caught.value.path == str(path), f"byte {at}: the error does not name the file"


@pytest.mark.parametrize(
    "part", ["fixed header", "points", "metadata", "frames", "index", "page table", "trailer"]
)
def test_damage_in_each_part_is_told_and_refused(images, place, quick_path, part):
    image = images["daily"]
    at = sections(image)[part][10]
    path = place(image[:at] + bytes([image[at] ^ 0x40]) + image[at + 1 :])
    assert verify_image(path).status == "bad"
    target = quick_path / "target.spi"
    with pytest.raises(FormatError) as caught:
        consolidate([path], target)
    assert caught.value.path == str(path)
    assert not target.exists()
    assert not list(quick_path.glob(".*"))


@given(st.data())
def test_flipped_bits_truncation_and_appended_bytes_are_noticed(data):
    image = _kept("daily")
    choice = data.draw(st.sampled_from(["flip", "cut", "append", "remove", "insert", "zero"]))
    at = data.draw(st.integers(0, len(image) - 1))
    size = data.draw(st.integers(1, 300))
    junk = data.draw(st.binary(min_size=1, max_size=300))
    damaged = {
        "flip": image[:at] + bytes([image[at] ^ 1 << size % 8]) + image[at + 1 :],
        "cut": image[:at],
        "append": image + junk,
        "remove": image[:at] + image[at + size :],
        "insert": image[:at] + junk + image[at:],
        "zero": image[:at] + bytes(size) + image[at + size :],
    }[choice]
    if damaged == image:
        return
    path = _memory_file(damaged)
    found = verify_image(path, from_medium=False)
    assert found.status == "bad"
    assert found.reason
    with pytest.raises(FormatError) as caught:
        use(path)
    assert caught.value.path == str(path)


@pytest.mark.parametrize("name", ["incremental", "blank"])
def test_an_image_appended_to_itself_or_cut_at_any_section_is_bad(images, place, name):
    image = images[name]
    cuts = {
        edge for part in sections(image).values() for edge in (part.start - 1, part.start, part.start + 1)
    }
    for cut in cuts:
        if 0 <= cut < len(image):
            assert verify_image(place(image[:cut])).status == "bad", f"cut at {cut}"
    for more in (image, b"\0", bytes(4096), image[-224:]):
        found = verify_image(place(image + more))
        assert found.status == "bad"


def test_the_start_of_one_image_with_the_end_of_another_is_bad(images, place):
    for one, other in (("base", "incremental"), ("incremental", "unchanged"), ("unchanged", "incremental")):
        mixed = images[one][: sections(images[one])["trailer"].start] + images[other][-224:]
        assert verify_image(place(mixed)).status == "bad"


WRONG_FILES = {
    "empty": (TruncatedError, b"", "empty"),
    "a text file": (NotAnImageError, b"Dear diary,\n" * 500, "not a rollforward image"),
    "a short text file": (TruncatedError, b"Dear diary,\n", "too short"),
    "zeros": (NotAnImageError, bytes(5000), "not a rollforward image"),
    "a later version": (
        UnsupportedVersionError,
        b"RFIMAGE\x1a\x02\x00" + bytes(5000),
        "another version",
    ),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_what_is_no_image_is_refused_with_a_reason(place, name):
    kind, content, words = WRONG_FILES[name]
    path = place(content)
    with pytest.raises(kind, match=words) as caught:
        ImageReader(path)
    assert caught.value.path == str(path)
    found = verify_image(path)
    assert (found.status, found.header, found.root) == ("bad", None, None)
    assert words in (found.reason or "")


@given(st.binary(max_size=3000), st.sampled_from(["", "start", "both ends"]))
def test_random_bytes_never_crash_the_reader(junk, dressed):
    if dressed:
        junk = b"RFIMAGE\x1a\x01\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00" + junk
    if dressed == "both ends":
        trailer = b"RFTRAIL\x1a" + junk[:184].ljust(184, b"\0")
        junk += trailer + blake3(trailer, derive_key_context=layout.ROOT_CONTEXT).digest()
    path = _memory_file(junk)
    with pytest.raises(FormatError):
        ImageReader(path)
    assert verify_image(path, from_medium=False).status == "bad"


# --- what only a hostile or broken writer would make: every digest is right


def lie(**fields: int | bytes) -> Callable[[Forged], None]:
    return lambda image: image.lies.update(fields)


def change(row: int, **fields: int | bytes) -> Callable[[Forged], None]:
    return lambda image: image.records[row].update(fields)


TRAILER_NUMBERS = TRAILER_FIELDS[1:12]
TRAILER_LIES = {
    f"{name} {step:+}": (name, step)
    for name in TRAILER_NUMBERS
    if name not in ("plain_bytes", "reserved")
    for step in (-1, 1, 64, 2**40, 2**63)
}


@pytest.mark.parametrize("name", TRAILER_LIES)
def test_a_trailer_that_does_not_fit_is_refused(images, place, name):
    field, step = TRAILER_LIES[name]
    forged = take_apart(images["daily"])
    truth = struct.unpack_from("<11Q", images["daily"], len(images["daily"]) - 216)
    forged.lies[field] = (dict(zip(TRAILER_NUMBERS, truth, strict=True))[field] + step) % 2**64
    path = place(forged.seal())
    with pytest.raises(FormatError) as caught:
        ImageReader(path)
    assert caught.value.path == str(path)
    assert verify_image(path).status == "bad"


FAULTS: dict[str, tuple[type[FormatError], Callable[[Forged], object]]] = {
    "a reserved field of the trailer": (UnsupportedVersionError, lie(reserved=1)),
    "another plain size": (FormatError, lie(plain_bytes=1)),
    "another header's digest": (DigestMismatchError, lie(header_digest=bytes(32))),
    "another page table's digest": (DigestMismatchError, lie(page_table_digest=bytes(32))),
    "another segment table's digest": (DigestMismatchError, lie(segment_table_digest=bytes(32))),
    "a page that says it begins earlier": (FormatError, lambda image: image.page_lies.append((0, 0, 3))),
    "a page that says it begins later": (FormatError, lambda image: image.page_lies.append((0, 2, 3))),
    "a page that says it ends earlier": (FormatError, lambda image: image.page_lies.append((0, 0, 0))),
    "a page that says it ends later": (FormatError, lambda image: image.page_lies.append((0, 0, 9))),
    "a page that ends before it begins": (FormatError, lambda image: image.page_lies.append((0, 9, 3))),
    "an unknown origin": (FormatError, change(0, origin=3)),
    "an unknown coding": (UnsupportedVersionError, change(0, flags=3)),
    "an unknown coding in the high bits": (UnsupportedVersionError, change(0, flags=2**31 + 2)),
    "no granules": (FormatError, change(0, mask_lo=0, mask_hi=0)),
    "granules beyond the volume": (FormatError, change(-1, block=2**32 - 1)),
    "an offset before the frames": (FormatError, change(0, offset=0)),
    "an offset beyond the file": (FormatError, change(0, offset=2**62)),
    "an offset that wraps round": (FormatError, change(0, offset=2**64 - 1)),
    "a length beyond the frames": (FormatError, change(0, length=2**32 - 1)),
    "a length that is one too long": (
        FormatError,
        lambda image: image.records[-1].update(length=int(image.records[-1]["length"]) + 1),
    ),
    "a gap between frames": (
        FormatError,
        lambda image: image.replace_frame(0, b"x" * 9, offset=_shifted(image)),
    ),
    "blocks out of order": (FormatError, lambda image: image.records.reverse()),
    "the same frame twice": (FormatError, lambda image: image.records.insert(0, dict(image.records[0]))),
    "origins out of order": (
        FormatError,
        lambda image: (image.records[0].update(origin=0), image.records[1].update(origin=2)),
    ),
    "bytes that no frame owns": (FormatError, lambda image: setattr(image, "frames", image.frames + b"x")),
    "bytes and no frame at all": (FormatError, lambda image: image.records.clear()),
    "bytes before the first frame": (FormatError, lambda image: image.records.pop(0)),
    "a frame with another frame's digest": (
        DigestMismatchError,
        lambda image: image.records[0].update(digest=image.records[1]["digest"]),
    ),
}
DEEP_ONLY = {"a frame with another frame's digest"}
VERIFY_ONLY = DEEP_ONLY | {"another plain size"}
"""What a restore does not look at: its own proof is the digests of the segments."""


def _shifted(image: Forged) -> int:
    return int(image.records[0]["offset"]) + 1


@pytest.mark.parametrize("name", FAULTS)
def test_a_structural_fault_is_refused_though_every_digest_fits(images, place, name):
    kind, spoil = FAULTS[name]
    forged = take_apart(images["daily"])
    assert len({record["block"] for record in forged.records}) > 1
    assert forged.records[0]["block"] == forged.records[1]["block"]
    spoil(forged)
    path = place(forged.seal())
    found = verify_image(path, deep=name in DEEP_ONLY)
    assert found.status == "bad", "verification did not see it"
    assert found.reason
    if name in VERIFY_ONLY:
        return
    with pytest.raises(kind) as caught:
        use(path)
    assert caught.value.path == str(path)


def test_frames_that_changed_places_are_noticed(images, place):
    forged = take_apart(images["base"])
    one, other = forged.records[0], forged.records[1]
    for name in ("length", "flags", "mask_lo", "mask_hi", "digest"):
        one[name], other[name] = other[name], one[name]
    path = place(forged.seal())
    assert verify_image(path).status == "bad"


def test_an_older_frame_of_the_same_block_in_a_newer_ones_place_is_noticed(images, place):
    image = images["daily"]
    forged = take_apart(image)
    newer, older = forged.records[0], forged.records[1]
    assert newer["block"] == older["block"]
    start, stop = int(older["offset"]), int(older["offset"]) + int(older["length"])
    frame = image[start:stop][: int(newer["length"])]
    spot = int(newer["offset"])
    path = place(image[:spot] + frame + image[spot + len(frame) :])
    assert verify_image(path).status == "bad"
    with pytest.raises(DigestMismatchError):
        use(path)


def test_an_index_of_several_pages(images, place):
    forged = many_zero_frames(images["base"], 2500)
    path = place(forged.seal())
    assert verify_image(path, deep=True).status == "good"
    with ImageReader(path) as image:
        assert len(image.pages) == 3
        assert image.read_pages(1, 3)["block"].tolist() == list(range(1024, 2500))
        assert [len(records) for records in image.iter_records(pages_at_once=2)] == [2048, 452]
    use(path)


PAGE_FAULTS = {
    "order across pages": lambda image: image.records[1024].update(block=1022),
    "the same block and origin across pages": lambda image: image.records[1024].update(block=1023),
    "a page that hides its tail": lambda image: image.page_lies.append((0, 0, 0)),
    "a last page that hides its tail": lambda image: image.page_lies.append((2, 2048, 2048)),
    "a page that claims the next one's blocks": lambda image: image.page_lies.append((0, 0, 1024)),
    "pages that overlap": lambda image: image.page_lies.append((0, 0, 1500)),
}


@pytest.mark.parametrize("name", PAGE_FAULTS)
def test_a_fault_between_pages_is_noticed(images, place, name):
    forged = many_zero_frames(images["base"], 2500)
    PAGE_FAULTS[name](forged)
    path = place(forged.seal())
    assert verify_image(path).status == "bad"
    with pytest.raises(FormatError):
        use(path)


# --- frames


def test_frames_are_coded_and_decoded():
    for plain in (noise(4096), b"a" * 4096, noise(512) + bytes(512)):
        flags, stored = encode_frame(memoryview(plain))
        assert bytes(decode_frame(flags, memoryview(stored), len(plain))) == plain
        assert len(stored) <= len(plain)
    assert bytes(decode_frame(layout.FRAME_ZERO, memoryview(b""), 1024)) == bytes(1024)


def compressed(plain: bytes, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(level=1, **options).compress(plain)


BAD_FRAMES = {
    "no Zstandard frame": b"x" * 300,
    "a frame that is cut off": compressed(noise(512) + bytes(512), write_content_size=False)[:-20],
    "too short a frame": compressed(bytes(512), write_content_size=False),
    "too long a frame": compressed(bytes(2048), write_content_size=False),
    "too long a frame that says so": compressed(bytes(2048)),
    "a frame that is a bomb": compressed(bytes(1 << 28)),
    "something after the frame": compressed(bytes(1024), write_content_size=False) + b"more",
    "a second frame after the first": compressed(bytes(512), write_content_size=False) * 2,
    "a frame that is skipped": b"\x50\x2a\x4d\x18" + (8).to_bytes(4, "little") + bytes(8),
    "four bytes": b"\x28\xb5\x2f\xfd",
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_frame_that_does_not_decode_is_refused_within_bounds(name):
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            decode_frame(layout.FRAME_ZSTD, memoryview(BAD_FRAMES[name]), 1024)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_an_image_with_such_a_frame_is_refused_by_name(images, place, name):
    forged = take_apart(images["base"])
    row = next(at for at, record in enumerate(forged.records) if record["flags"] == layout.FRAME_ZSTD)
    forged.replace_frame(row, BAD_FRAMES[name])
    path = place(forged.seal())
    assert verify_image(path).status == "good", "its stored bytes are what was written"
    deep = verify_image(path, deep=True)
    assert deep.status == "bad"
    assert deep.reason
    with pytest.raises(FormatError) as caught:
        use(path)
    assert caught.value.path == str(path)
    assert caught.value.offset == forged.records[row]["offset"]


# --- files that are no files


def test_a_missing_file_says_nothing_of_its_bytes(quick_path):
    for call in (ImageReader, verify_image):
        with pytest.raises(StorageError) as caught:
            call(quick_path / "gone.spi")
        assert "gone.spi" in str(caught.value)


def test_a_pipe_under_an_images_name_does_not_hang(quick_path):
    path = quick_path / "D_VOL-b001.spf"
    os.mkfifo(path)
    ended = threading.Event()
    found: list[Verified] = []

    def try_it() -> None:
        found.append(verify_image(path))
        ended.set()

    threading.Thread(target=try_it, daemon=True).start()
    in_time = ended.wait(10)
    if not in_time:
        os.close(os.open(path, os.O_RDWR))
    assert in_time, "opening the pipe waits for a writer"
    assert found[0].status == "bad"


def test_a_folder_or_link_under_an_images_name_is_refused(quick_path, images):
    folder = quick_path / "D_VOL-b001.spf"
    folder.mkdir()
    target = quick_path / "elsewhere"
    target.write_bytes(images["base"])
    link = quick_path / "D_VOL-b002.spf"
    link.symlink_to(target)
    for path, words in ((folder, "not a regular file"), (link, "link")):
        found = verify_image(path)
        assert found.status == "bad"
        assert words in (found.reason or "")
        with pytest.raises(NotAnImageError) as caught:
            use(path)
        assert caught.value.path == str(path)


def test_no_file_stays_open(images, place, quick_path):
    before = open_files()
    image = images["incremental"]
    for damaged in (image, image[:-1], image[:300], b"", image[:600] + b"!" + image[601:]):
        path = place(damaged)
        verify_image(path, deep=True)
        with pytest.raises(RollforwardError):
            consolidate([path, path], quick_path / "out.spi")
    assert open_files() == before


@pytest.mark.parametrize("granules", [2**27, 2**33])
def test_memory_stays_bounded_though_a_sparse_file_claims_to_be_vast(images, quick_path, granules):
    """The claims fit the file's size; only its digests do not."""
    image = images["base"]
    forged = take_apart(image)
    path = quick_path / "vast.spf"
    with path.open("wb") as file:
        head = forged.seal()[: forged.frames_offset]
        file.write(head)
        frames_bytes = granules * GRANULE
        told = {"magic": b"RFTRAIL\x1a", "frames_offset": len(head), "frames_bytes": frames_bytes}
        segments = -(-frames_bytes // 2**20)
        at = len(head) + frames_bytes
        fields = [told["frames_offset"], frames_bytes, at, 0, at, 0, at, segments, 0]
        fields += [at + 32 * segments + 224, 0]
        digests = image[-128:-96] + blake3(b"").digest() + bytes(32)
        trailer = b"RFTRAIL\x1a" + struct.pack("<11Q", *fields) + digests
        file.seek(at + 32 * segments)
        file.write(trailer + blake3(trailer, derive_key_context=layout.ROOT_CONTEXT).digest())
    tracemalloc.start()
    try:
        assert verify_image(path, from_medium=False).status == "bad"
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


_KEPT: dict[str, bytes] = {}


@pytest.fixture(autouse=True, scope="module")
def _keep(images: dict[str, bytes]) -> None:
    """Let hypothesis have the images, which are made once."""
    _KEPT.update(images)


def _kept(name: str) -> bytes:
    return _KEPT[name]


def _memory_file(content: bytes) -> Path:
    """Write a file that is used by one example and replaced by the next."""
    folder = Path("/dev/shm" if Path("/dev/shm").is_dir() else "/tmp")
    path = folder / f"rollforward-test-{os.getpid()}.spi"
    path.write_bytes(content)
    return path


def teardown_module() -> None:
    _memory_file(b"").unlink()
