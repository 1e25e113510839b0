"""The side files of a disk that is not finalized: its map, and what would show that it is a disk.

    .rollforward-hsr/NAME.map      which block has which slot: a log that only grows
    .rollforward-hsr/NAME.edges    the first and the last MiB of the disk's content

See docs/disks.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from blake3 import blake3

from hsr.disks import layout_side as layout
from hsr.disks.form import HIDDEN_BYTES, I32, DiskForm, DiskKind, rounded_up
from hsr.disks.forms import form_for
from hsr.disks.medium import DiskFile, Medium
from policies.errors import DigestMismatchError, FormatError, UnsupportedVersionError

SIDE_NAME: Final = ".rollforward-hsr"
"""Name of the folder with the side files."""

_RECORD_DIGEST_BYTES: Final = 20


@dataclass(frozen=True, slots=True)
class SidePaths:
    """Where the side files of a disk lie.

    Attributes:
        folder: the folder.
        name: name of the disk.
    """

    folder: Path
    name: str

    @classmethod
    def beside(cls, path: Path) -> SidePaths:
        """Return the usual place: a folder beside the disk."""
        return cls(path.parent / SIDE_NAME, path.name)

    @property
    def map(self) -> Path:
        """The map."""
        return self.folder / f"{self.name}.map"

    @property
    def new_map(self) -> Path:
        """The map while it is being made."""
        return self.folder / f"{self.name}.map.new"

    @property
    def edges(self) -> Path:
        """The first and the last MiB."""
        return self.folder / f"{self.name}.edges"


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose a device is, as map and mark say; all zeros where there is none.

    Attributes:
        owner: 16 bytes: who has taken it.
        taken: 16 bytes, different each time that it is taken.
    """

    owner: bytes = bytes(16)
    taken: bytes = bytes(16)


@dataclass(slots=True)
class MapState:
    """What a map says.

    Attributes:
        used: int32, for each block its slot, -1 where it has none; empty for a kind without slots.
        slot_count: how many slots are given away.
        is_started: whether the disk's own file was made.
        is_finalizing: whether the disk takes no more writes.
        is_settled: of a raw file or device, whether nothing but its front is missing.
        is_lent: whether it takes none until it is taken back.
        serial: number of the last record.
        end_bytes: where the next record goes.
    """

    used: I32
    slot_count: int = 0
    is_started: bool = False
    is_finalizing: bool = False
    is_settled: bool = False
    is_lent: bool = False
    serial: int = 0
    end_bytes: int = layout.HEADER.itemsize


class DiskMap:
    """The map of a disk, open.

    Args:
        file: the file.
        size_bytes: what is to fit on the disk.
        claim: of a device, whose it is.
        state: what it says.
    """

    def __init__(self, file: DiskFile, size_bytes: int, claim: Claim, state: MapState) -> None:
        self._file = file
        self.size_bytes = size_bytes
        self.claim = claim
        self.state = state
        self._is_durable = False

    def settle_records(self) -> None:
        """Make durable what was read when it was opened: a killed process may have left records in the cache alone.

        Raises:
            RestoreError: the medium refuses.
        """
        if not self._is_durable:
            self._file.sync()
            self._is_durable = True

    def add_blocks(self, blocks: I32) -> None:
        """Record, durably, that blocks have the slots that follow those given away; they are durable already.

        Raises:
            RestoreError: the medium refuses.

        Crash: recorded or not; a torn record is cut off when the map is next opened.
        """
        self._append(layout.RECORD_BLOCKS, blocks.astype("<u4").tobytes())
        self.state.slot_count += len(blocks)

    def start(self) -> None:
        """Record, durably, that the disk's own file is there; see `add_blocks`."""
        self._append(layout.RECORD_STARTED)
        self.state.is_started = True

    def begin_finalizing(self) -> None:
        """Record, durably, that the disk takes no more writes; see `add_blocks`."""
        self._append(layout.RECORD_FINALIZING)
        self.state.is_finalizing = True

    def settle(self) -> None:
        """Record, durably, that nothing is missing but the front; see `add_blocks`."""
        self._append(layout.RECORD_SETTLED)
        self.state.is_settled = True

    def begin_lending(self) -> None:
        """Record, durably, that the disk takes no writes until it is taken back; see `add_blocks`."""
        self._append(layout.RECORD_LENT)
        self.state.is_lent = True

    def end_lending(self) -> None:
        """Record, durably, that the disk was taken back, and shows nothing any more; see `add_blocks`."""
        self._append(layout.RECORD_TAKEN_BACK)
        self.state.is_lent = False

    def _append(self, kind: int, blocks: bytes = b"") -> None:
        record = np.zeros((), layout.RECORD)
        record["magic"] = layout.RECORD_MAGIC
        record["serial"] = self.state.serial + 1
        record["kind"], record["count"] = kind, len(blocks) // 4
        record["blocks_digest"] = np.frombuffer(_short_digest(blocks), np.uint8)
        record["digest"] = np.frombuffer(_short_digest(record.tobytes()[:-_RECORD_DIGEST_BYTES]), np.uint8)
        whole = record.tobytes() + blocks
        whole = whole.ljust(rounded_up(len(whole), layout.ALIGN_BYTES), b"\0")
        self._file.write(whole, self.state.end_bytes)
        self._file.sync()
        self._is_durable = True
        self.state.serial += 1
        self.state.end_bytes += len(whole)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def make_map(medium: Medium, paths: SidePaths, form: DiskForm, size_bytes: int, claim: Claim) -> None:
    """Make the side files of a new disk; whatever is left of an older attempt is replaced.

    Args:
        medium: where they lie.
        paths: their names.
        form: form of the disk.
        size_bytes: what is to fit on it.
        claim: of a device, whose it is.

    Raises:
        RestoreError: the medium refuses.

    Crash: no map, or one that is whole and without a record.
    """
    header = np.zeros((), layout.HEADER)
    header["magic"], header["version"] = layout.MAGIC, layout.VERSION
    header["kind"], header["size_bytes"] = form.kind.value.encode(), size_bytes
    header["owner"] = np.frombuffer(claim.owner, np.uint8)
    header["taken"] = np.frombuffer(claim.taken, np.uint8)
    for name, number in _geometry(form).items():
        header[name] = number
    header["digest"] = np.frombuffer(blake3(header.tobytes()[:-32]).digest(), np.uint8)
    medium.make_folder(paths.folder)
    medium.sync_folder(paths.folder.parent)
    for path, content, size in ((paths.edges, b"", 2 * HIDDEN_BYTES), (paths.new_map, header.tobytes(), 0)):
        medium.remove(path)
        file = medium.open(path, create=True)
        try:
            file.truncate(size)
            if content:
                file.write(content, 0)
            file.sync()
        finally:
            file.close()
    medium.rename(paths.new_map, paths.map)
    medium.sync_folder(paths.folder)


def _geometry(form: DiskForm) -> dict[str, int]:
    slots = form.slots
    return {
        "block_bytes": slots.block_bytes if slots else 0,
        "block_count": slots.block_count if slots else 0,
        "slots_offset": slots.offset if slots else 0,
        "stride_bytes": slots.stride_bytes if slots else 0,
    }


def open_map(medium: Medium, paths: SidePaths, disk: Path, serial: int = 0) -> tuple[DiskMap, DiskForm]:
    """Open the map of a disk and read it; what a crash tore off its end is cut.

    Args:
        medium: where it lies.
        paths: its name.
        disk: path of the disk.
        serial: the number of a record that is known to be there.

    Returns:
        The map, and the form of the disk.

    Raises:
        BusyError: somebody else works on the disk.
        FormatError: it is no map, or is damaged, or of a later version.
        RestoreError: the medium refuses.
    """
    file = medium.open(paths.map)
    try:
        header = _read_header(file, paths.map)
        form = _form_of(header, disk, paths.map)
        state = MapState(np.full(form.slots.block_count if form.slots else 0, -1, np.int32))
        size = file.size_bytes()
        while _read_record(file, paths.map, state):
            pass
        if state.serial < serial:
            raise _damage(paths.map, state)
        if size > state.end_bytes:
            _refuse_damage(file, paths.map, state, size)
            file.truncate(state.end_bytes)
        claim = Claim(header["owner"].tobytes(), header["taken"].tobytes())
        return DiskMap(file, int(header["size_bytes"]), claim, state), form
    except BaseException:
        file.close()
        raise


def _form_of(header: np.void, disk: Path, path: Path) -> DiskForm:
    kind = bytes(header["kind"]).decode(errors="replace")
    if kind not in set(DiskKind):
        raise UnsupportedVersionError(
            "is of a kind that this version does not know", path=str(path), actual=kind
        )
    form = form_for(disk, DiskKind(kind), int(header["size_bytes"]))
    if any(int(header[name]) != number for name, number in _geometry(form).items()):
        raise UnsupportedVersionError("was laid out by another version", path=str(path))
    return form


def _read_header(file: DiskFile, path: Path) -> np.void:
    packed = file.read(0, layout.HEADER.itemsize)
    if len(packed) < layout.HEADER.itemsize or not packed.startswith(layout.MAGIC):
        raise FormatError("is no map of a disk", path=str(path))
    header: np.void = np.frombuffer(packed, layout.HEADER)[0]
    if blake3(packed[:-32]).digest() != header["digest"].tobytes():
        raise DigestMismatchError("the header of the map is damaged", path=str(path), offset=0)
    if header["version"] != layout.VERSION:
        raise UnsupportedVersionError("is of a later version", path=str(path), actual=int(header["version"]))
    return header


def _read_record(file: DiskFile, path: Path, state: MapState) -> bool:
    """Take the next record; return whether there was a whole one."""
    packed = file.read(state.end_bytes, layout.RECORD.itemsize)
    record = _sound_head(packed)
    if record is None or record["serial"] != state.serial + 1:
        return False
    count = int(record["count"])
    if count > len(state.used):
        return False
    packed = file.read(state.end_bytes + layout.RECORD.itemsize, 4 * count)
    if len(packed) < 4 * count or _short_digest(packed) != record["blocks_digest"].tobytes():
        return False
    blocks = np.frombuffer(packed, "<u4").astype(np.int64)
    kind = int(record["kind"])
    if kind == layout.RECORD_BLOCKS:
        _give_slots(blocks, state, path)
    state.is_started |= kind == layout.RECORD_STARTED
    state.is_finalizing |= kind == layout.RECORD_FINALIZING
    state.is_settled |= kind == layout.RECORD_SETTLED
    if kind in (layout.RECORD_LENT, layout.RECORD_TAKEN_BACK):
        state.is_lent = kind == layout.RECORD_LENT
    state.serial += 1
    state.end_bytes += rounded_up(layout.RECORD.itemsize + 4 * count, layout.ALIGN_BYTES)
    return True


def _give_slots(blocks: np.ndarray[tuple[int], np.dtype[np.int64]], state: MapState, path: Path) -> None:
    slots = state.slot_count + np.arange(len(blocks), dtype=np.int32)
    fits = bool((blocks < len(state.used)).all()) and not (state.used[blocks] >= 0).any()
    if fits:
        state.used[blocks] = slots
        fits = bool((state.used[blocks] == slots).all())  # a block that is named twice has its last slot
    if not fits:
        raise FormatError(
            "the map gives a block two slots, or names one that is none",
            path=str(path),
            offset=state.end_bytes,
        )
    state.slot_count += len(blocks)


def _sound_head(packed: bytes) -> np.void | None:
    if len(packed) < layout.RECORD.itemsize or not packed.startswith(layout.RECORD_MAGIC):
        return None
    record: np.void = np.frombuffer(packed, layout.RECORD)[0]
    sound = _short_digest(packed[:-_RECORD_DIGEST_BYTES]) == record["digest"].tobytes()
    return record if sound else None


def _refuse_damage(file: DiskFile, path: Path, state: MapState, size: int) -> None:
    """Tell a torn end from damage: a crash tears the last record only, so no later one may follow."""
    for offset in range(state.end_bytes, size, layout.ALIGN_BYTES):
        record = _sound_head(file.read(offset, layout.RECORD.itemsize))
        if record is not None and record["serial"] > state.serial + 1:
            raise _damage(path, state)


def _damage(path: Path, state: MapState) -> DigestMismatchError:
    return DigestMismatchError(
        "the map is damaged",
        path=str(path),
        offset=state.end_bytes,
        hint="The medium has lost something; have this disk built anew.",
    )


def _short_digest(content: bytes) -> bytes:
    return blake3(content).digest(_RECORD_DIGEST_BYTES)
