"""Whatever happens to an image: `verify` says bad and why; `restore` and `consolidate` refuse and name the file."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from storage import layout
from storage.parts import part_path
from tests.bed import (
    VOLUME,
    Bed,
    content_of,
    image_names,
    number_in,
    partial_files,
    remove_image,
    write_image,
)
from tests.checks.anatomy import Anatomy, Seal

NOTES = b"Dear colleague,\n\nthe backups are in this folder.\n" * 40


@dataclasses.dataclass(frozen=True, slots=True)
class Damage:
    """One way to spoil an image.

    Attributes:
        name: what was done, in words.
        content: what the image holds afterwards.
        at: the one byte that is spoilt; None if it is more, or none.
    """

    name: str
    content: bytes | bytearray
    at: int | None = None


@dataclasses.dataclass(frozen=True)
class _Patient:
    """A folder with a base, one image that stands for the first day, and incrementals; one of them is spoilt."""

    folder: Path
    victim: Path
    content: bytes
    reach: int


def flipped_bits(bed: Bed) -> str:
    """One bit anywhere: each field of header, points, index, tables and trailer, metadata, frames."""
    chooser = random.Random(2)
    patient = _patient(bed)
    parts = Anatomy(bytearray(patient.content)).parts()
    for part in parts:
        content = bytearray(patient.content)
        at = chooser.randrange(part.start, part.stop)
        content[at] ^= 1 << chooser.randrange(8)
        _must_be_refused(bed, patient, Damage(f"a bit of the {part.name} (byte {at})", content, at))
    return f"{len(parts)} classes of bytes, all refused"


def flipped_bits_of_a_base(bed: Bed) -> str:
    """One bit of a base image: header, frames, index, trailer."""
    patient = _patient(bed, base=True)
    anatomy = Anatomy(bytearray(patient.content))
    middle = (anatomy.frames_start + anatomy.index_start) // 2
    places = (100, anatomy.frames_start, middle, anatomy.index_start + 70, anatomy.trailer_start + 50)
    for at in places:
        content = bytearray(patient.content)
        content[at] ^= 4
        _must_be_refused(bed, patient, Damage(f"a bit of the base (byte {at})", content, at))
    return f"{len(places)} places, all refused"


def cut_or_grown(bed: Bed) -> str:
    """Truncated anywhere, down to nothing; something appended."""
    patient = _patient(bed)
    content = patient.content
    anatomy = Anatomy(bytearray(content))
    ends = [0, 1, 8, 255, 256, 300, anatomy.frames_start, (anatomy.frames_start + anatomy.index_start) // 2]
    ends += [anatomy.index_start, anatomy.index_start + 100, anatomy.pages_start, anatomy.segments_start]
    ends += [anatomy.trailer_start, len(content) - 100, len(content) - 1]
    trailer = content[anatomy.trailer_start :]
    damages = [Damage(f"cut to {end} bytes", content[:end]) for end in ends]
    damages += [
        Damage("a byte appended", content + b"\0"),
        Damage("a sector appended", content + bytes(512)),
        Damage("its own trailer appended", content + trailer),
        Damage("its own trailer put after a cut", content[: anatomy.index_start] + trailer),
    ]
    for damage in damages:
        _must_be_refused(bed, patient, damage)
    return f"{len(damages)} lengths, all refused"


def lost_and_misplaced_writes(bed: Bed) -> str:
    """Pages that were lost, or landed in the wrong place."""
    patient = _patient(bed)
    anatomy = Anatomy(bytearray(patient.content))
    middle = (anatomy.frames_start + anatomy.index_start) // 2 // 4096 * 4096
    damages = []
    for name, at in (("frames", middle), ("index", anatomy.index_start // 4096 * 4096 + 4096)):
        for what, page in (("zeros", bytes(4096)), ("another page", patient.content[4096 : 2 * 4096])):
            content = bytearray(patient.content)
            content[at : at + 4096] = page
            damages.append(
                Damage(f"a page of the {name} replaced by {what}", content[: len(patient.content)])
            )
    for damage in damages:
        _must_be_refused(bed, patient, damage)
    return f"{len(damages)} pages, all refused"


def swapped_frames(bed: Bed) -> str:
    """Frames that changed places, sealed as far as whoever did it could without being noticed."""
    patient = _patient(bed)
    damages = [*_swaps(patient.content), *_older_for_newer(patient.content)]
    for damage in damages:
        _must_be_refused(bed, patient, damage)
    return f"{len(damages)} exchanges, all refused"


def strangers(bed: Bed) -> str:
    """An empty file, a text file, and other good images, each under a name that fits."""
    patient = _patient(bed)
    other_chain, same_chain = bed.linked(bed.chain), bed.linked(bed.chain)
    new_chain = bed.new_folder("other")
    replay = bed.history.replay(bed.folder / "other.raw")
    for _ in range(2):
        bed.must("capture", replay.path, "--into", new_chain, "--volume", VOLUME, *bed.spanning)
        replay.advance()
    replay.path.unlink()
    foreign = content_of(new_chain / f"{VOLUME}-b001-i001.spi")
    for folder, wanted in ((other_chain, foreign), (same_chain, None)):
        name = f"{VOLUME}-b001-i002.spi"
        following = content_of(bed.chain / f"{VOLUME}-b001-i003.spi")
        write_image(folder / name, wanted or following, bed.part_bytes)
        spoilt = _Patient(folder, folder / name, b"", 3)
        _must_be_refused(bed, spoilt, Damage("another good image under its name", wanted or following))
    _must_be_refused(bed, patient, Damage("an empty file", b""))
    _must_be_refused(bed, patient, Damage("a text file", NOTES))
    base = content_of(bed.chain / f"{VOLUME}-b001.spf")
    _must_be_refused(bed, patient, Damage("the base under the name of an incremental", base))
    write_image(patient.victim, patient.content, bed.part_bytes)
    stray = patient.folder / "notes.spi"
    stray.write_bytes(NOTES)
    ran = bed.command("verify", patient.folder, "--json")
    assert ran.code == 1, str(ran)
    assert [found["path"] for found in ran.objects if found["status"] == "bad"] == [str(stray)], str(ran)
    return "6 of 6 refused"


# --- the patient, and what has to be said of it


def _patient(bed: Bed, *, base: bool = False) -> _Patient:
    folder = bed.linked(bed.chain)
    bed.consolidate(folder, 0, bed.per_day, "daily")
    for name in image_names(folder):
        if "-i" in name and "-cd" not in name and number_in(name) != bed.per_day + 1:
            remove_image(folder / name)
    name = f"{VOLUME}-b001.spf" if base else f"{VOLUME}-b001-i{bed.per_day:03d}-cd.spi"
    content = content_of(folder / name)
    write_image(folder / name, content, bed.part_bytes)
    return _Patient(folder, folder / name, content, bed.per_day + 1)


def _must_be_refused(bed: Bed, patient: _Patient, damage: Damage) -> None:
    """Hold what the commands say of a spoilt image against what they have to say."""
    victim, folder = patient.victim, patient.folder
    write_image(victim, damage.content, bed.part_bytes)
    blamed = _to_be_blamed(bed, victim, damage)
    before = sorted(path.name for path in folder.iterdir())

    ran = bed.command("verify", victim, "--json")
    assert ran.code == 1, f"{damage.name}: {ran}"
    (found,) = ran.objects
    assert found["status"] == "bad", f"{damage.name}: {ran}"
    assert found["reason"], f"{damage.name}: {ran}"
    if damage.at is not None and bed.part_bytes is not None and damage.at >= bed.part_bytes:
        assert blamed.name in found["reason"], f"{damage.name}: verify does not name the part: {ran}"

    ran = bed.command("verify", folder, "--json")
    bad = [found["path"] for found in ran.objects if found["status"] != "good"]
    assert (ran.code, bad) == (1, [str(victim)]), f"{damage.name}: {ran}"

    targets = bed.new_folder("targets")
    ran = bed.command(
        "restore", folder, "--volume", VOLUME, "--point", str(patient.reach), "--to", targets / "a.raw"
    )
    assert ran.code in (3, 4), f"{damage.name}: {ran}"
    assert blamed.name in ran.errors, f"{damage.name}: the restore does not name the file: {ran}"
    assert "Traceback" not in ran.errors, str(ran)
    assert not list(targets.iterdir()), f"{damage.name}: the restore leaves {list(targets.iterdir())}"
    targets.rmdir()

    weekly = ("--after", "0", "--upto", str(patient.reach), "--tier", "weekly")
    full = ("--upto", str(patient.reach), "--full")
    for wanted in (full,) if victim.suffix == ".spf" else (full, weekly):
        ran = bed.command("consolidate", folder, "--volume", VOLUME, *wanted)
        assert ran.code in (3, 4), f"{damage.name}: {ran}"
        assert blamed.name in ran.errors, f"{damage.name}: the consolidation does not name the file: {ran}"
    after = sorted(path.name for path in folder.iterdir())
    assert after == before, f"{damage.name}: left behind: {set(after) ^ set(before)}"
    assert not partial_files(folder), f"{damage.name}: {partial_files(folder)}"


def _to_be_blamed(bed: Bed, victim: Path, damage: Damage) -> Path:
    """The file that has to be named: the part that holds the spoilt byte; any of the set's, if it is not one byte."""
    if bed.part_bytes is None:
        return victim
    return victim.with_suffix(".sp") if damage.at is None else part_path(victim, damage.at // bed.part_bytes)


# --- exchanges


def _swaps(content: bytes) -> Iterator[Damage]:
    """Two frames of different blocks exchange bytes, records, or block numbers."""
    for name, swap, seals in (
        ("the bytes of two frames", _swap_bytes, (Seal.NONE, Seal.PAGES)),
        ("the records of two frames", _swap_records, tuple(Seal)),
        ("the blocks of two frames", _swap_blocks, tuple(Seal)),
    ):
        for seal in seals:
            anatomy = Anatomy(bytearray(content))
            swap(anatomy, *_alike(anatomy))
            if seal is not Seal.NONE and swap is _swap_bytes:
                _digest_again(anatomy, _alike(anatomy))
            anatomy.seal(seal)
            yield Damage(f"{name} swapped, sealed up to {seal.name}", anatomy.content)


def _older_for_newer(content: bytes) -> Iterator[Damage]:
    """An older frame of a block in a newer one's place."""
    for name, replace in (
        ("bytes of an older frame put over a newer one's", _older_bytes),
        ("record of an older frame put in a newer one's place", _older_record),
        ("origins of an older and a newer frame swapped", _swap_origins),
        ("records of an older and a newer frame swapped", _swap_records),
    ):
        for seal in tuple(Seal) if replace is not _older_bytes else (Seal.NONE, Seal.PAGES):
            anatomy = Anatomy(bytearray(content))
            newer = _two_of_a_block(anatomy)
            replace(anatomy, newer, newer + 1)
            if seal is not Seal.NONE and replace is _older_bytes:
                _digest_again(anatomy, (newer,))
            anatomy.seal(seal)
            yield Damage(f"{name}, sealed up to {seal.name}", anatomy.content)


def _alike(anatomy: Anatomy) -> tuple[int, int]:
    """Two frames of different blocks; of the same length if there are such."""
    lengths = anatomy.records["length"]
    order = np.lexsort((np.arange(len(lengths)), lengths))
    order = order[lengths[order] > 0]
    same = np.flatnonzero(np.diff(lengths[order].astype(np.int64)) == 0)
    for at in (*same.tolist(), 0):
        first, second = int(order[at]), int(order[at + 1])
        bytes_differ = anatomy.content[anatomy.stored(first)] != anatomy.content[anatomy.stored(second)]
        if bytes_differ and anatomy.records["block"][first] != anatomy.records["block"][second]:
            return first, second
    raise AssertionError("no two frames to swap")


def _two_of_a_block(anatomy: Anatomy) -> int:
    """A row whose follower is an older frame of the same block, not shorter than it."""
    block, length = anatomy.records["block"], anatomy.records["length"]
    found = np.flatnonzero((block[1:] == block[:-1]) & (length[1:] > 0) & (length[:-1] > length[1:]))
    assert len(found), "no block has two frames"
    return int(found[len(found) // 2])


def _swap_bytes(anatomy: Anatomy, first: int, second: int) -> None:
    """Exchange as many stored bytes as the shorter one has."""
    one, two = anatomy.stored(first), anatomy.stored(second)
    length = min(one.stop - one.start, two.stop - two.start)
    one, two = slice(one.start, one.start + length), slice(two.start, two.start + length)
    content = anatomy.content
    content[one], content[two] = bytes(content[two]), bytes(content[one])


def _swap_records(anatomy: Anatomy, first: int, second: int) -> None:
    kept = anatomy.records[first].copy()
    anatomy.records[first] = anatomy.records[second]
    anatomy.records[second] = kept


def _swap_blocks(anatomy: Anatomy, first: int, second: int) -> None:
    _swap_field(anatomy, "block", first, second)


def _swap_origins(anatomy: Anatomy, first: int, second: int) -> None:
    _swap_field(anatomy, "origin", first, second)


def _swap_field(anatomy: Anatomy, field: str, first: int, second: int) -> None:
    one, two = int(anatomy.records[field][first]), int(anatomy.records[field][second])
    anatomy.records[field][first], anatomy.records[field][second] = two, one


def _older_bytes(anatomy: Anatomy, newer: int, older: int) -> None:
    source = anatomy.content[anatomy.stored(older)]
    start = anatomy.stored(newer).start
    anatomy.content[start : start + len(source)] = source


def _older_record(anatomy: Anatomy, newer: int, older: int) -> None:
    for field in layout.RECORD.names or ():
        if field != "origin":
            anatomy.records[field][newer] = anatomy.records[field][older]


def _digest_again(anatomy: Anatomy, rows: tuple[int, ...]) -> None:
    from storage.digests import frame_digest

    for row in rows:
        digest = frame_digest(anatomy.content[anatomy.stored(row)])
        anatomy.records[row]["digest"] = np.frombuffer(digest, np.uint8)


Check = Callable[[Bed], str]

CHECKS: tuple[Check, ...] = (
    flipped_bits,
    flipped_bits_of_a_base,
    cut_or_grown,
    lost_and_misplaced_writes,
    swapped_frames,
    strangers,
)
