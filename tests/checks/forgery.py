"""Whoever can write a folder, but does not have the key: whatever they make of an image, reading notices it.

The attacker knows the format and makes every digest fit that takes no key: those of frames, pages, segments and
header, and the root. Frames are moved, replaced, replayed, taken away and invented, zero frames and traces too; points
are altered. The images are genuine ones of one chain, captured and consolidated, and of another with the same
password.
"""

from __future__ import annotations

import copy
import dataclasses
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from blake3 import blake3

from policies.errors import ChainError, FormatError, RollforwardError
from storage.consolidate import consolidate
from storage.keys import ChainKey
from storage.overlay import Overlay
from storage.replay import BlockReader
from tests.unit.forge import Forged, take_apart
from tests.unit.tiny import BLOCK, Password, TinyVolume

TRACE = 8
TAG_BYTES = 16

Frame = tuple[dict[str, int], bytes]
"""A record and the frame's stored bytes."""


class NotHereError(Exception):
    """This image does not offer what an attack needs."""


@dataclasses.dataclass
class Victim:
    """An image to be forged.

    Attributes:
        path: where it is.
        genuine: its bytes.
        way: the images of a restore that reads it, in order.
        forged: its parts.
        frames: its frames.
    """

    path: Path
    genuine: bytes
    way: tuple[Path, ...]
    forged: Forged
    frames: list[Frame]

    @classmethod
    def of(cls, path: Path, way: tuple[Path, ...]) -> Victim:
        genuine = path.read_bytes()
        forged = take_apart(genuine)
        frames = []
        for record in forged.records:
            start = int(record["offset"]) - forged.frames_offset
            frames.append((dict(record), forged.frames[start : start + int(record["length"])]))
        return cls(path, genuine, way, forged, frames)

    def rebuilt(self, frames: list[Frame], change: Callable[[Forged], None] | None = None) -> bytes:
        """Lay out the image with other frames, all digests made to fit."""
        forged = copy.deepcopy(self.forged)
        if change is not None:
            change(forged)
        forged.records, at, stream = [], forged.frames_offset, []
        for record, stored in sorted(frames, key=lambda frame: (frame[0]["block"], -frame[0]["origin"])):
            is_trace = record["flags"] & TRACE
            digest = record["digest"] if is_trace else blake3(stored).digest(24)
            forged.records.append(record | {"offset": at, "length": len(stored), "digest": digest})
            stream.append(stored)
            at += len(stored)
        forged.frames = b"".join(stream)
        return forged.seal()


class Attacker:
    """Makes forgeries.

    Args:
        victims: the chain's images.
        strangers: frames of another chain.
        seed: of the choices.
    """

    def __init__(self, victims: list[Victim], strangers: list[Frame], seed: int) -> None:
        self._victims = victims
        self._strangers = strangers
        self._chance = random.Random(seed)
        self._versions: dict[int, list[Frame]] = {}
        for victim in victims:
            for record, stored in victim.frames:
                if not record["flags"] & TRACE:
                    self._versions.setdefault(record["block"], []).append((record, stored))

    def forge(self) -> tuple[str, Victim, bytes]:
        """Return what was done, to which image, and its bytes now."""
        while True:
            name = self._chance.choice(ATTACKS)
            victim = self._chance.choice(self._victims)
            try:
                content = getattr(self, name)(victim, [(dict(one), two) for one, two in victim.frames])
            except NotHereError:
                continue
            if content != victim.genuine:
                return name, victim, content

    # --- frames

    def _row(self, frames: list[Frame], *, zero: bool | None = None) -> int:
        rows = [
            row
            for row, (record, _) in enumerate(frames)
            if not record["flags"] & TRACE and zero in (None, record["flags"] == 0)
        ]
        if not rows:
            raise NotHereError
        return self._chance.choice(rows)

    def _free_block(self, frames: list[Frame], origin: int) -> int:
        taken = {record["block"] for record, _ in frames if record["origin"] == origin}
        free = sorted(set(self._versions) - taken)
        if not free:
            raise NotHereError
        return self._chance.choice(free)

    def moved(self, victim: Victim, frames: list[Frame]) -> bytes:
        record, _ = frames[self._row(frames, zero=False)]
        record["block"] = self._free_block(frames, record["origin"])
        return victim.rebuilt(frames)

    def swapped(self, victim: Victim, frames: list[Frame]) -> bytes:
        (one, _), (two, _) = frames[self._row(frames)], frames[self._row(frames)]
        if one["origin"] != two["origin"]:
            raise NotHereError
        one["block"], two["block"] = two["block"], one["block"]
        return victim.rebuilt(frames)

    def replaced_by_noise(self, victim: Victim, frames: list[Frame]) -> bytes:
        row = self._row(frames, zero=False)
        frames[row] = (frames[row][0], self._chance.randbytes(len(frames[row][1])))
        return victim.rebuilt(frames)

    def flipped(self, victim: Victim, frames: list[Frame]) -> bytes:
        row = self._row(frames, zero=False)
        stored = bytearray(frames[row][1])
        stored[self._chance.randrange(len(stored))] ^= 1 << self._chance.randrange(8)
        frames[row] = (frames[row][0], bytes(stored))
        return victim.rebuilt(frames)

    def replaced_by_another(self, victim: Victim, frames: list[Frame]) -> bytes:
        return self._put(
            victim, frames, self._chance.choice(self._versions[self._chance.choice([*self._versions])])
        )

    def replaced_by_a_strangers(self, victim: Victim, frames: list[Frame]) -> bytes:
        return self._put(victim, frames, self._chance.choice(self._strangers))

    def replayed(self, victim: Victim, frames: list[Frame]) -> bytes:
        row = self._row(frames)
        return self._put(victim, frames, self._chance.choice(self._versions[frames[row][0]["block"]]), row)

    def _put(self, victim: Victim, frames: list[Frame], other: Frame, row: int | None = None) -> bytes:
        """Put another frame in the place of one, mask and coding and all."""
        row = self._row(frames) if row is None else row
        record = frames[row][0]
        place = {"block": record["block"], "origin": record["origin"]}
        frames[row] = (other[0] | place, other[1])
        return victim.rebuilt(frames)

    def taken_away(self, victim: Victim, frames: list[Frame]) -> bytes:
        del frames[self._row(frames)]
        return victim.rebuilt(frames)

    def newest_taken_away(self, victim: Victim, frames: list[Frame]) -> bytes:
        """An older frame of the block shows then, as it was captured."""
        blocks = Counter(record["block"] for record, _ in frames)
        rows = [
            row
            for row, (record, _) in enumerate(frames)
            if blocks[record["block"]] > 1 and (row == 0 or frames[row - 1][0]["block"] != record["block"])
        ]
        if not rows:
            raise NotHereError
        del frames[self._chance.choice(rows)]
        return victim.rebuilt(frames)

    def made_a_trace(self, victim: Victim, frames: list[Frame]) -> bytes:
        row = self._row(frames)
        record = frames[row][0]
        frames[row] = (record | {"flags": record["flags"] | TRACE}, b"")
        return victim.rebuilt(frames)

    def trace_altered(self, victim: Victim, frames: list[Frame]) -> bytes:
        rows = [row for row, (record, _) in enumerate(frames) if record["flags"] & TRACE]
        if not rows:
            raise NotHereError
        row = self._chance.choice(rows)
        record = frames[row][0]
        if self._chance.random() < 0.5:
            del frames[row]
        else:
            frames[row] = (record | {"digest": self._chance.randbytes(24)}, b"")
        return victim.rebuilt(frames)

    def zero_invented(self, victim: Victim, frames: list[Frame]) -> bytes:
        origin = self._chance.randrange(len(victim.forged.points) - 1)
        record = dict(frames[self._row(frames)][0])
        changes = {"block": self._free_block(frames, origin), "origin": origin, "flags": 0}
        return victim.rebuilt([*frames, (record | changes, b"")])

    def zero_moved(self, victim: Victim, frames: list[Frame]) -> bytes:
        record, _ = frames[self._row(frames, zero=True)]
        record["block"] = self._free_block(frames, record["origin"])
        return victim.rebuilt(frames)

    def made_zero(self, victim: Victim, frames: list[Frame]) -> bytes:
        row = self._row(frames, zero=False)
        frames[row] = (frames[row][0] | {"flags": 0}, b"")
        return victim.rebuilt(frames)

    def mask_altered(self, victim: Victim, frames: list[Frame]) -> bytes:
        record, _ = frames[self._row(frames)]
        record["mask_lo"] ^= 1 << self._chance.randrange(64)
        if not record["mask_lo"] | record["mask_hi"]:
            raise NotHereError
        return victim.rebuilt(frames)

    def coding_altered(self, victim: Victim, frames: list[Frame]) -> bytes:
        record, _ = frames[self._row(frames, zero=False)]
        record["flags"] = 3 - record["flags"]
        return victim.rebuilt(frames)

    def origins_swapped(self, victim: Victim, frames: list[Frame]) -> bytes:
        pairs = [(one, two) for (one, _), (two, _) in pairwise(frames) if one["block"] == two["block"]]
        if not pairs:
            raise NotHereError
        one, two = self._chance.choice(pairs)
        one["origin"], two["origin"] = two["origin"], one["origin"]
        return victim.rebuilt(frames)

    # --- whole images

    def all_frames_of_another(self, victim: Victim, frames: list[Frame]) -> bytes:
        """The frames of one capture under the header of another: its whole state, replayed."""
        del frames
        other = self._chance.choice(self._victims)
        points = len(victim.forged.points)
        if len(other.forged.points) != points:
            raise NotHereError
        return victim.rebuilt(other.frames)

    def point_altered(self, victim: Victim, frames: list[Frame]) -> bytes:
        def change(forged: Forged) -> None:
            point = self._chance.choice([one for one in forged.points if any(one["id"])])
            name = self._chance.choice(["time_us", "number", "id", "capture_id", "volume_bytes"])
            if isinstance(point[name], bytes):
                point[name] = self._chance.randbytes(16)
            else:
                point[name] += self._chance.choice([1, 512, 65_536])
            sizes = [int(one["volume_bytes"]) for one in forged.points if any(one["id"])]
            is_base = int(forged.header["flags"]) & 1
            forged.header["zero_from_bytes"] = 0 if is_base else min(sizes)

        return victim.rebuilt(frames, change)

    def called_plain(self, victim: Victim, frames: list[Frame]) -> bytes:
        def change(forged: Forged) -> None:
            forged.header["flags"] = int(forged.header["flags"]) & 1
            forged.header["key_area_bytes"] = 0
            forged.key_area = forged.seals = b""

        kept = [(record | {"flags": 0}, b"") for record, _ in frames if not record["flags"] & TRACE]
        return victim.rebuilt(kept, change)


ATTACKS = [
    name
    for name, member in vars(Attacker).items()
    if not name.startswith("_") and name != "forge" and callable(member)
]


def stage(folder: Path) -> tuple[list[Victim], list[Frame], ChainKey]:
    """Make a chain of six points, a daily, and a synthetic full; another chain with the same password."""
    volume = _chain(folder / "one", seed=1, points=6)
    _chain(folder / "two", seed=2, points=2)
    volume.merge(0, 4, "-cd")
    base, daily = volume.image(), volume.image(4, "-cd")
    full = consolidate([base, daily, volume.image(5)], volume.folder / f"{volume.name}-b001-i005.spf").path
    captured = tuple(volume.image(number) for number in range(6))
    victims = [Victim.of(path, captured[: number + 1]) for number, path in enumerate(captured)]
    victims += [Victim.of(daily, (base, daily)), Victim.of(full, (full,))]
    other = Victim.of(folder / "two" / "images" / captured[0].name, ())
    key = volume.key()
    assert key is not None
    return victims, [frame for frame in other.frames if frame[1]], key


def _chain(home: Path, seed: int, points: int) -> TinyVolume:
    chance = random.Random(seed)
    volume = TinyVolume(home, password=Password())
    blocks = 20
    content = bytearray(chance.randbytes(BLOCK // 16).ljust(BLOCK, b"\0") * (blocks - 4) + bytes(4 * BLOCK))
    for _ in range(points):
        volume.raw.write_bytes(content)
        volume.capture()
        for _ in range(8):
            at = chance.randrange(blocks * BLOCK - 2048) // 512 * 512
            content[at : at + 1024] = chance.choice([chance.randbytes(1024), b"text" * 256, bytes(1024)])
        block = chance.randrange(blocks - 4) * BLOCK
        content[block : block + BLOCK] = chance.choice([bytes(BLOCK), chance.randbytes(512) * 128])
    return volume


def forgeries(victims: list[Victim], strangers: list[Frame], key: ChainKey, count: int, seed: int = 1) -> str:
    """Forge, read, put back; each forgery has to be noticed, and to be told from a wrong password.

    Returns:
        How many were noticed, of how many kinds.
    """
    attacker = Attacker(victims, strangers, seed)
    kinds: Counter[str] = Counter()
    for _ in range(count):
        name, victim, content = attacker.forge()
        victim.path.write_bytes(content)
        noticed = _noticed(victim.way, key)
        assert isinstance(noticed, (FormatError, ChainError)), f"{name} of {victim.path.name}: {noticed!r}"
        victim.path.write_bytes(victim.genuine)
        kinds[name] += 1
    for victim in victims:
        read(victim.way, key)
    assert len(kinds) == len(ATTACKS), f"not tried: {set(ATTACKS) - set(kinds)}"
    return f"{kinds.total():,} of {count:,} noticed, of {len(kinds)} kinds"


def _noticed(way: tuple[Path, ...], key: ChainKey) -> RollforwardError | None:
    try:
        read(way, key)
    except RollforwardError as error:
        return error
    return None


def read(way: tuple[Path, ...], key: ChainKey) -> None:
    """Read all that some images show."""
    with Overlay(way) as overlay:
        for _ in BlockReader(overlay, key).stripes():
            pass
