"""One case: a chain with a spoilt image in it, and everything done to it that reads images."""

from __future__ import annotations

import contextlib
import faulthandler
import shutil
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import numpy as np

from hsr.restore import restore
from policies.errors import (
    ChainError,
    ConfigurationError,
    FormatError,
    PasswordError,
    RestoreError,
    RollforwardError,
    StorageError,
)
from storage.amplification import SquashLimits
from storage.chain import load_chain
from storage.consolidate import consolidate
from storage.folder import find_image, scan_folder
from storage.image import ImageReader
from storage.key_area import KeyArea, decode_key_area, encode_key_area
from storage.key_files import Unlocked, unlock
from storage.key_repair import mend_key_slots
from storage.keys import ChainKey, KdfCost
from storage.overlay import Overlay
from storage.parts import image_files, part_path
from storage.replay import BlockReader
from storage.squash import squash
from storage.verify import verify_image
from tests.command import in_this_process
from tests.fuzz.decisions import Decisions
from tests.fuzz.spoiling import spoilt, spoilt_slots
from tests.golden.make_golden import PASSWORD, states
from tests.unit.forge import take_apart

CORPUS = Path(__file__).parents[1] / "golden"
VOLUMES = ("D_GOLD", "D_LOCK")
"""Chains of the same states: a plain one and an encrypted one."""

CASE_S = 20
"""A case that takes longer hangs: most take some hundredths of a second."""

MEMORY_BYTES = 512 << 20
"""What the process may use at most."""

PLAIN_BYTES_MAX = 48 << 20
"""Plain bytes that a case may restore: what a small file can claim to hold is tried, but not written out."""

HARMLESS = ("plain size", "which is whole without it")
"""What verification calls bad, though it keeps nobody from reading: a wrong sum, a file that does not belong there."""

COST_KIB_MAX = 4096
"""Memory times passes: dearer slots are decoded, but no password is tried on them."""

WAYS = (("",), ("", "-i001"), ("", "-i001", "-i002"), ("", "-i002-cd"), ("-i002",))
MERGES = (("-i001", "-i002"), ("", "-i001"), ("", "-i002-cd"))


class CaseRunner:
    """Runs cases in a folder of its own.

    Args:
        home: an empty folder, best in memory.
    """

    def __init__(self, home: Path) -> None:
        self.folder, self.raw, self.merged = home / "images", home / "x.raw", home / "merged.spi"
        self.chains = {volume: sorted(CORPUS.glob(f"{volume}-*.sp?")) for volume in VOLUMES}
        self.keys = {volume: _key(paths) for volume, paths in self.chains.items()}
        self.slots = {volume: _cheap_slots(key) for volume, key in self.keys.items()}
        self.states = states()
        self.folder.mkdir()
        self.verdicts = {"good": 0, "bad": 0}

    def run(self, content: bytes) -> None:
        """Run the case that some bytes describe.

        Raises:
            Exception: whatever came out though it must not.
        """
        decide = Decisions(content)
        faulthandler.dump_traceback_later(CASE_S, exit=True)
        try:
            victim = self._lay_out(decide)
            self._read(victim, in_commands=not decide.below(8))
        finally:
            faulthandler.cancel_dump_traceback_later()
        if peak_bytes() > MEMORY_BYTES:
            raise MemoryError(f"{peak_bytes() >> 20} MiB in use")

    def _lay_out(self, decide: Decisions) -> Path:
        """Put the chain down, one image spoilt, now and then in parts."""
        shutil.rmtree(self.folder / ".rollforward", ignore_errors=True)
        for path in self.folder.iterdir():
            path.unlink()
        self.volume = decide.choose(list(self.chains))
        slots = self.slots[self.volume]
        self.seeds = {path.name: _with_slots(path, slots) for path in self.chains[self.volume]}
        for name, image in self.seeds.items():
            (self.folder / name).write_bytes(image)
        victim = self.folder / decide.choose([name for name in self.seeds if not name.endswith(".spk")])
        content = spoilt(self.seeds[victim.name], decide)
        if slots and not decide.below(3):
            (self.folder / f"{self.volume}-b001.spk").write_bytes(spoilt_slots(slots, decide))
        part_bytes = len(content) if decide.below(6) else 1 + decide.below(max(len(content), 1))
        pieces = [content[at : at + part_bytes] for at in range(0, len(content), max(part_bytes, 1))][:20]
        victim.write_bytes(pieces[0] if pieces else b"")
        for number, piece in enumerate(pieces[1:], 1):
            part_path(victim, number).write_bytes(piece)
        if len(pieces) > 1 and decide.below(2):
            _spoil_set(image_files(victim), decide)
        return victim

    def _read(self, victim: Path, *, in_commands: bool) -> None:
        self._look(victim)
        found = verify_image(victim, from_medium=False)
        self.verdicts[found.status] += 1
        if found.changed_bytes <= PLAIN_BYTES_MAX:
            verify_image(victim, deep=True, key=self.keys[self.volume], from_medium=False)
        bad = found.status == "bad" and not any(words in (found.reason or "") for words in HARMLESS)
        for path in filter(lambda path: victim in path, map(self._paths, WAYS)):
            self._restore(path, bad)
        for path in filter(lambda path: victim in path, map(self._paths, MERGES)):
            self._merge(path, bad)
        self._squash(victim, bad)
        self._open_slots()
        if in_commands:
            self._command("chain", self.folder)
            self._command("chain", self.folder, "--json")
            self._command("verify", self.folder, "--json")

    def _paths(self, ends: tuple[str, ...]) -> list[Path]:
        names = [f"{self.volume}-b001{end}" for end in ends]
        return [self.folder / f"{name}{'.spf' if f'{name}.spf' in self.seeds else '.spi'}" for name in names]

    def _look(self, victim: Path) -> None:
        """Listing a folder, and headers alone."""
        find_image(victim)
        scan_folder(self.folder)
        expected(lambda: load_chain(self.folder).newest())
        with contextlib.suppress(FormatError), ImageReader(victim) as image:
            for _ in image.iter_records():
                pass
            decode_key_area(image.header.key_area, str(victim))

    def _restore(self, path: list[Path], bad: bool) -> None:
        self.raw.unlink(missing_ok=True)
        plain_bytes = sum(_plain_bytes(image) for image in path)
        key = self.keys[self.volume]
        if plain_bytes <= PLAIN_BYTES_MAX and expected(lambda: restore(path, self.raw, key=key)):
            assert not bad, "restored from an image that verification refuses"
            if key is not None:
                assert self.raw.read_bytes() in self.states, "restored what nobody with the key ever captured"
        if key is None:
            expected(lambda: _some_blocks(path))
        else:
            assert not expected(lambda: restore(path, self.raw, overwrite=True)), "restored without the key"

    def _merge(self, path: list[Path], bad: bool) -> None:
        self.merged.unlink(missing_ok=True)
        if expected(lambda: consolidate(path, self.merged)):
            assert not bad, "merged an image that verification refuses"
            assert verify_image(self.merged, from_medium=False).status == "good"

    def _squash(self, victim: Path, bad: bool) -> None:
        self.merged.unlink(missing_ok=True)
        key, limits = self.keys[self.volume], SquashLimits(factor=1, depth=1)
        if _plain_bytes(victim) <= PLAIN_BYTES_MAX:
            expected(lambda: squash(victim, self.merged, key=key, limits=limits))
        assert not (bad and self.merged.exists()), "squashed an image that verification refuses"

    def _open_slots(self) -> None:
        """Open the chain by what key slots there are, before and after mending them."""
        key, slots = self.keys[self.volume], self.slots[self.volume]
        if key is None:
            expected(lambda: mend_key_slots(self.folder, self.volume), ConfigurationError)
            return
        for _ in range(2):
            images = [image.header for image in scan_folder(self.folder, self.volume) if image.usable]
            headers = [header for header in images if header is not None and header.encrypted]
            opened: list[Unlocked] = []
            path = self.folder / f"{self.volume}-b001.spk"
            if _costs_little([path.read_bytes(), *(header.key_area for header in headers)]):
                expected(lambda: opened.append(unlock(path, headers, PASSWORD)))  # noqa: B023 - called at once
            for found in opened:
                assert found.key.derive("x") == key.derive("x"), "opened by another key"
                assert encode_key_area(found.newest) == slots, "carried on what nobody with the key wrote"
            expected(lambda: mend_key_slots(self.folder, self.volume), ConfigurationError)

    def _command(self, *words: str | Path) -> None:
        ran = in_this_process(*words)
        assert ran.code in (0, 1, 3, 4, 7, 10), str(ran)
        assert "Traceback" not in ran.errors, str(ran)


def _key(paths: list[Path]) -> ChainKey | None:
    """Open the chain, if it is encrypted."""
    key_file = next((path for path in paths if path.suffix == ".spk"), None)
    if key_file is None:
        return None
    with ImageReader(next(path for path in paths if path.suffix == ".spf")) as image:
        return unlock(key_file, [image.header], PASSWORD).key


def _cheap_slots(key: ChainKey | None) -> bytes:
    """Wrap a key anew, so that trying the password costs next to nothing."""
    if key is None:
        return b""
    slot = key.wrap(PASSWORD, KdfCost(memory_kib=64, passes=1, lanes=1))
    return encode_key_area(key.sealed(KeyArea(key.chain_id, 1, (slot,))))


@cache
def _with_slots(path: Path, slots: bytes) -> bytes:
    """Return a seed with other key slots, if it has any."""
    if path.suffix == ".spk":
        return slots
    image = take_apart(path.read_bytes())
    image.key_area = slots
    return image.seal()


def _costs_little(areas: Iterable[bytes]) -> bool:
    """Tell whether trying a password on slots takes no time to speak of: what they may cost at most is bounded."""
    for packed in set(areas):
        with contextlib.suppress(FormatError):
            area = decode_key_area(packed, "x")
            if sum(slot.memory_kib * slot.passes for slot in area.slots) > COST_KIB_MAX:
                return False
    return True


def _spoil_set(files: list[Path], decide: Decisions) -> None:
    """Take a part away, swap two, copy one over another, cut one off or have it grow; or put one more there."""
    one, two, kind = decide.choose(files), decide.choose(files), decide.below(6)
    here, there = one.read_bytes(), two.read_bytes()
    if kind == 0:
        one.unlink()
    elif kind == 1:
        one.write_bytes(there)
        two.write_bytes(here)
    elif kind == 2:
        one.write_bytes(there)
    elif kind == 3:
        one.write_bytes(here[: decide.below(len(here) + 1)])
    elif kind == 4:
        one.write_bytes(here + decide.take(decide.below(99)))
    else:
        part_path(files[0], len(files) + decide.below(2)).write_bytes(there)


def _plain_bytes(path: Path) -> int:
    try:
        with ImageReader(path) as image:
            return image.plain_bytes
    except (FormatError, StorageError):
        return 0


def _some_blocks(path: list[Path]) -> None:
    """Read the first and the last blocks, as a server of a point does."""
    with Overlay(path) as overlay:
        wanted = {0, 1, max(overlay.block_count - 1, 0)}
        BlockReader(overlay).read(np.array(sorted(wanted), np.int64))


def expected(work: Callable[[], object], *also: type[RollforwardError]) -> bool:
    """Tell whether work went well; only errors that are documented for bad images may come out of it."""
    try:
        work()
    except (FormatError, ChainError, PasswordError, *also):
        return False
    except RestoreError as error:  # a volume larger than any file may be
        if "too large" not in str(error):
            raise
        return False
    return True


def peak_bytes() -> int:
    """Return the most memory that this process ever had in use."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) << 10
