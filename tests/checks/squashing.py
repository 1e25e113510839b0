"""Squashed images: every state comes back from them to the last bit, in all tiers; the room they take."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Callable
from pathlib import Path

from storage.parts import image_files, part_path
from tests.bed import VOLUME, Bed, image_names, number_in, remove_image
from tests.checks.exactness import TIERS
from tests.commands import sha256_of

Check = Callable[[Bed], str]

EVERY_BLOCK = ("--factor", "1", "--depth", "1")
SECTOR_BYTES = 512


@dataclasses.dataclass(slots=True)
class Room:
    """What squashing some images saved."""

    before_bytes: int = 0
    after_bytes: int = 0
    blocks: int = 0
    squashed: int = 0

    def __str__(self) -> str:
        return (
            f"{self.before_bytes / 2**20:,.1f} MiB became {self.after_bytes / 2**20:,.1f} "
            f"({self.squashed:,} of {self.blocks:,} blocks)"
        )


def squash_in_place(bed: Bed, path: Path, room: Room, *limits: str) -> None:
    """Squash an image, and put the result where the image was."""
    folder = bed.new_folder("squashed")
    (told,) = bed.must("squash", path, "--to", folder, *limits).objects
    room.before_bytes += told["before_bytes"]
    room.after_bytes += told["stored_bytes"]
    room.blocks += told["blocks"]
    room.squashed += told["blocks_squashed"]
    if told["status"] == "unchanged":
        assert image_names(folder) == []
        return
    assert told["factor_after"] <= told["factor_before"]
    remove_image(path)
    for number, file in enumerate(image_files(folder / path.name)):
        file.rename(part_path(path, number))


def _every_tier(bed: Bed, *limits: str) -> str:
    """Squash dailies, weeklies made of squashed dailies, a monthly of these, and a full; restore from each alone."""
    folder = bed.linked(bed.chain)
    told = []
    for tier in TIERS:
        sources = [name for name in image_names(folder) if name.endswith(".spi")]
        made, room = bed.roll_up(folder, tier), Room()
        for name in sources:
            remove_image(folder / name)
        for path in made:
            squash_in_place(bed, path, room, *limits)
        bed.must_verify(folder, deep=True)
        bed.must_restore(folder, [0, *(number_in(path.name) for path in made)])
        told.append(f"{tier} {room}")
    full, room = bed.make_full(folder, bed.last), Room()
    squash_in_place(bed, full, room, *limits)
    for name in image_names(folder):
        if name != full.name:
            remove_image(folder / name)
    bed.must_restore(folder, [bed.last])
    told.append(f"full {room}")
    return "; ".join(told)


def within_the_limits(bed: Bed) -> str:
    """Every tier, at the limits that are recommended: most blocks stay as they are."""
    return _every_tier(bed)


def every_block(bed: Bed) -> str:
    """Every tier, with each block coded anew that holds more than what is seen of it."""
    return _every_tier(bed, *EVERY_BLOCK)


def beside_the_rest(bed: Bed) -> str:
    """Squashed and plain images side by side: each state, and merges of both kinds, are exact."""
    folder = bed.linked(bed.chain)
    room = Room()
    for path in bed.roll_up(folder, "daily")[::2]:
        squash_in_place(bed, path, room, *EVERY_BLOCK)
    for path in bed.roll_up(folder, "weekly")[1::2]:
        squash_in_place(bed, path, room, *EVERY_BLOCK)
    count = bed.must_restore(folder, bed.numbers)
    for number in range(1, bed.last):
        remove_image(folder / f"{VOLUME}-b001-i{number:03d}.spi")
    bed.roll_up(folder, "monthly")
    for name in image_names(folder):
        if name.endswith(("-cd.spi", "-cw.spi")):
            remove_image(folder / name)
    count += bed.must_restore(folder, [0, bed.last])
    return f"{count} restores"


def random_sectors(bed: Bed, volume_bytes: int, states: int, share: float) -> str:
    """A volume of which random sectors are written, a share of them each time: what squashing saves, and exactness."""
    chance = random.Random(1)
    raw, folder, squashed = bed.folder / "random.raw", bed.new_folder(), bed.new_folder()
    raw.write_bytes(chance.randbytes(1 << 20) * (volume_bytes >> 20))
    for number in range(states):
        if number:
            with raw.open("r+b") as file:
                for _ in range(int(volume_bytes // SECTOR_BYTES * share)):
                    file.seek(chance.randrange(volume_bytes // SECTOR_BYTES) * SECTOR_BYTES)
                    file.write(chance.randbytes(SECTOR_BYTES))
        bed.must("capture", raw, "--into", folder, "--volume", "RANDOM", *bed.spanning)
    digest = sha256_of(raw)
    raw.unlink()
    steps = ("--volume", "RANDOM", "--after", "0", "--upto", str(states - 1), "--tier", "monthly")
    (merged,) = bed.must("consolidate", folder, *steps, *bed.spanning).objects
    (told,) = bed.must("squash", merged["path"], "--to", squashed).objects
    assert told["status"] == "squashed", told
    for path in folder.glob("*.spi"):
        remove_image(path)
    for path in image_files(Path(told["path"])):
        os.link(path, folder / path.name)
    target = bed.folder / "random-restored.raw"
    bed.must("restore", folder, "--volume", "RANDOM", "--to", target)
    assert sha256_of(target) == digest
    target.unlink()
    saved = 1 - told["stored_bytes"] / told["before_bytes"]
    assert told["factor_after"] < told["factor_before"]
    assert saved > 0
    return (
        f"{told['before_bytes'] / 2**20:,.1f} MiB became {told['stored_bytes'] / 2**20:,.1f} ({saved:.0%} less), "
        f"stored against seen {told['factor_before']} → {told['factor_after']}, depth {told['depth_before']} → "
        f"{told['depth_after']}"
    )


def differentials(bed: Bed) -> str:
    """Differentials of the base and of other points, with incrementals on them: each state from what it needs."""
    folder = bed.linked(bed.chain, [f"{VOLUME}-b001.spf"])
    replay = bed.history.replay(bed.folder / "differential.raw")
    made: dict[int, str] = {}
    capturing = ("capture", replay.path, "--into", folder, "--volume", VOLUME)
    for number in range(1, bed.last + 1):
        replay.roll_to(number)
        more: tuple[str, ...] = ()
        if number % bed.per_day == 0:
            of = 0 if number % bed.per_week == 0 else number - bed.per_day
            more = ("--differential", "--of", str(of))
        (told,) = bed.must(*capturing, *more, *bed.spanning).objects
        assert (told["number"], told["kind"]) == (number, "differential" if more else "incremental")
        made[number] = Path(told["path"]).name
    replay.path.unlink()
    count = bed.must_restore(folder, bed.numbers)
    stays = [number for number in bed.numbers if number % bed.per_day == 0]
    for number, name in made.items():
        if number not in stays:
            remove_image(folder / name)
    count += bed.must_restore(folder, stays)
    bed.must_verify(folder, deep=True)
    weekly = stays[-1] - stays[-1] % bed.per_week
    room = Room()
    squash_in_place(bed, bed.consolidate(folder, 0, weekly, "weekly"), room, *EVERY_BLOCK)
    remove_image(folder / made[weekly])
    full = bed.make_full(folder, stays[-1])
    for name in image_names(folder):
        if name != full.name:
            remove_image(folder / name)
    count += bed.must_restore(folder, [stays[-1]])
    return f"{count} restores with {len(stays) - 1} differentials"


CHECKS: tuple[Check, ...] = (within_the_limits, every_block, beside_the_rest, differentials)
