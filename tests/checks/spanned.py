"""Images in several files: whatever happens to the files of a set, the one to blame is named, and nothing else used."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from storage.image import ImageReader
from storage.parts import image_files, part_path, stored_bytes_of
from tests.bed import VOLUME, Bed, content_of, image_names, partial_files, write_image


@dataclasses.dataclass(frozen=True, slots=True)
class Mishap:
    """Something that befell the files of a set.

    Attributes:
        name: what it was, in words.
        apply: does it.
        words: what verification has to say.
        blamed: names of files, one of which has to be named.
    """

    name: str
    apply: Callable[[], None]
    words: str
    blamed: tuple[str, ...]


def joined_and_split_again(bed: Bed) -> str:
    """`cat` of the parts is the image; an image that was split by hand is a set; the root stays the same."""
    assert bed.part_bytes is not None
    folder = bed.linked(bed.chain)
    roots = {found["path"]: found["root"] for found in bed.must("verify", folder).objects}
    for name in image_names(folder):
        write_image(folder / name, content_of(folder / name), None)
        assert image_files(folder / name) == [folder / name]
    joined = {found["path"]: found["root"] for found in bed.must("verify", folder).objects}
    assert joined == roots, "joined, they are other images"
    for name in image_names(folder):
        write_image(folder / name, content_of(folder / name), bed.part_bytes * 3 // 2)
    split = bed.must("verify", folder).objects
    assert {found["path"]: found["root"] for found in split} == roots, "split again, they are other images"
    bed.must_restore(folder, [0, bed.last])
    return f"{len(roots)} images joined, and split into {sum(found['parts'] for found in split)} parts"


def misplaced_parts(bed: Bed) -> str:
    """Each part missing, swapped, copied over another, cut, grown, of another set; one too many."""
    count = 0
    for name in (f"{VOLUME}-b001.spf", f"{VOLUME}-b001-i{bed.per_day:03d}-cd.spi"):
        folder = _folder_with(bed, name)
        image = folder / name
        for mishap in _mishaps(bed, image):
            kept = {path: path.read_bytes() for path in image_files(image)}
            mishap.apply()
            _must_be_named(bed, image, mishap)
            for path in _files_of(image):
                path.unlink()
            for path, content in kept.items():
                path.write_bytes(content)
            count += 1
        bed.must_verify(folder)
    return f"{count} mishaps, each named"


def _folder_with(bed: Bed, name: str) -> Path:
    """A folder with the base, the first day's daily and the following incremental; one image has files of its own."""
    folder = bed.linked(bed.chain)
    bed.consolidate(folder, 0, bed.per_day, "daily")
    write_image(folder / name, content_of(folder / name), bed.part_bytes)
    for number in range(1, bed.per_day + 1):
        for path in image_files(folder / f"{VOLUME}-b001-i{number:03d}.spi"):
            path.unlink()
    return folder


def _mishaps(bed: Bed, image: Path) -> Iterator[Mishap]:
    part_bytes = bed.part_bytes
    assert part_bytes is not None
    last = len(image_files(image)) - 1
    assert last >= 3, f"{image.name} has {last + 1} parts: too few to show anything"
    chosen = sorted({1, 2, last // 2, last - 1, last})
    for number in (0, *chosen):
        missing = part_path(image, number)
        yield Mishap(f"part {number} missing", missing.unlink, "is missing", (missing.name,))
    with ImageReader(image) as whole:
        of_frames = range(
            1, whole.index_offset // part_bytes
        )  # frames tell where they belong, an index page does not
    for one, other in ((0, 1), (1, 2), (1, last - 1), (last - 1, last), (0, last)):
        paths = part_path(image, one), part_path(image, other)
        words = "holds what belongs into" if one in of_frames and other in of_frames else ""
        names = (paths[1].name,) if one == 0 else (paths[0].name, paths[1].name)
        yield Mishap(f"parts {one} and {other} swapped", lambda paths=paths: _swap(*paths), words, names)
    for number in (0, 2, last):
        path = part_path(image, number)
        yield Mishap(f"part {number} a byte short", lambda path=path: _resize(path, -1), "", (path.name,))
        yield Mishap(f"part {number} a byte long", lambda path=path: _resize(path, 1), "", (path.name,))
    one, other = part_path(image, 1), part_path(image, 2)
    yield Mishap(
        "a part twice", lambda: _overwrite(other, one.read_bytes()), "holds what belongs into", (other.name,)
    )
    strange = content_of(bed.chain / f"{VOLUME}-b001.spf")[-2 * part_bytes : -part_bytes]
    yield Mishap("a part of another image", lambda: _overwrite(one, strange), "of another image", (one.name,))
    shorter = content_of(image)[part_bytes - 512 : 2 * (part_bytes - 512)]
    yield Mishap("a part of another part size", lambda: _overwrite(one, shorter), "too short", (one.name,))
    more = part_path(image, last + 1)
    yield Mishap(
        "one part too many", lambda: more.write_bytes(strange) and None, "does not belong", (more.name,)
    )
    far = part_path(image, last + 3)
    yield Mishap("a part too far", lambda: far.write_bytes(strange) and None, "does not belong", (far.name,))


def _must_be_named(bed: Bed, image: Path, mishap: Mishap) -> None:
    folder = image.parent
    before = sorted(path.name for path in folder.iterdir())
    ran = bed.command("verify", folder, "--json")
    bad = [found for found in ran.objects if found["status"] != "good"]
    assert (ran.code, [found["path"] for found in bad]) == (1, [str(image)]), f"{mishap.name}: {ran}"
    reason = bad[0]["reason"]
    assert mishap.words in reason, f"{mishap.name}: {reason}"
    _names_one(mishap, f"{image}: {reason}")
    targets = bed.new_folder("targets")
    wanted = ("--volume", VOLUME, "--upto", str(bed.per_day + 1), "--full", *bed.spanning)
    point = ("--volume", VOLUME, "--point", str(bed.per_day + 1), "--to", targets / "a.raw")
    for words in (("restore", folder, *point), ("consolidate", folder, *wanted)):
        ran = bed.command(*words)
        assert ran.code in (3, 4), f"{mishap.name}: {ran}"
        assert "Traceback" not in ran.errors, f"{mishap.name}: {ran}"
        _names_one(mishap, ran.errors)
    assert not list(targets.iterdir()), f"{mishap.name}: the restore leaves {list(targets.iterdir())}"
    targets.rmdir()
    assert sorted(path.name for path in folder.iterdir()) == before, mishap.name
    assert not partial_files(folder), mishap.name


def _names_one(mishap: Mishap, told: str) -> None:
    named = any(name in told for name in mishap.blamed)
    assert named, f"{mishap.name}: none of {mishap.blamed} is named in: {told}"


def _files_of(image: Path) -> list[Path]:
    """All files of a set, gaps or not."""
    stem = image.name if image.name.count("-i") and image.suffix == ".spf" else image.stem
    return (
        [image, *image.parent.glob(f"{stem}.sp[0-9]*")]
        if image.exists()
        else list(image.parent.glob(f"{stem}.sp[0-9]*"))
    )


def _swap(one: Path, other: Path) -> None:
    kept = one.with_name("kept")
    one.rename(kept)
    other.rename(one)
    kept.rename(other)


def _resize(path: Path, more: int) -> None:
    os.truncate(path, path.stat().st_size + more)


def _overwrite(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def one_part_size_or_another(bed: Bed) -> str:
    """Whatever the part size, it is the same image; and the full of a number stands beside that incremental."""
    assert bed.part_bytes is not None
    folder = bed.linked(bed.chain)
    roots = set()
    for part_bytes in (bed.part_bytes, bed.part_bytes * 2 + 1, None):
        spanning = () if part_bytes is None else ("--part-size", str(part_bytes))
        wanted = ("--volume", VOLUME, "--upto", str(bed.per_day), "--full", *spanning)
        (made,) = bed.must("consolidate", folder, *wanted).objects
        roots.add(made["root"])
        bed.must_verify(folder)
        bed.must_restore(folder, [bed.per_day])
        assert stored_bytes_of(Path(made["path"])) == made["stored_bytes"]
        for path in image_files(Path(made["path"])):
            path.unlink()
    assert len(roots) == 1, f"the roots differ: {roots}"
    return "three part sizes, one root; full and incremental of one number side by side"


CHECKS = (joined_and_split_again, misplaced_parts, one_part_size_or_another)
