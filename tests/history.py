"""Real volume histories: an ext4 volume full of this machine's own files, and its changed states.

Tests, acceptance checks and benchmarks share them, so they are made once and kept on disk, in the folder that
ROLLFORWARD_HISTORY names or in the temporary folder. Choices and changed bytes depend on the arguments and on
the machine's files alone; only the inode change times of the base differ from one making to the next.

A history folder holds

    base.raw                the first state, sparse
    state-NNN.bytes         the bytes that differ from the state before, one range after another
    state-NNN.ranges.npy    where they go: int64 rows (offset, length), in bytes
    history.json            sizes, SHA-256 and a few words about each state

so that a working copy is rolled from state to state in place, at the price of the bytes that changed.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.commands import copy_sparse, sha256_of
from tests.volumes import LivingVolume, ResizedVolume, ServerVolume

MAKER_VERSION = 1
"""Raised whenever the maker changes, so that nobody uses a history of an older kind."""

SECTOR_BYTES = 512
MIB = 1 << 20
GIB = 1 << 30

Bytes = npt.NDArray[np.uint8]
Ranges = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """One state of a volume.

    Attributes:
        number: its place in the history, the base being 0.
        volume_bytes: size of the volume.
        sha256: hexadecimal digest of the whole volume.
        written_bytes: bytes that differ from the state before, in sectors.
        clean: whether e2fsck finds nothing to complain about.
        note: what was done to it, in a few words.
    """

    number: int
    volume_bytes: int
    sha256: str
    written_bytes: int
    clean: bool
    note: str


@dataclasses.dataclass(frozen=True, slots=True)
class History:
    """A made history: a folder and what it holds."""

    folder: Path
    states: tuple[State, ...]

    @property
    def base_path(self) -> Path:
        """The first state as a sparse raw file; never written to."""
        return self.folder / "base.raw"

    @property
    def last(self) -> State:
        """The newest state."""
        return self.states[-1]

    def ranges(self, number: int) -> Ranges:
        """Say which ranges state `number` (from 1) changed: int64 rows (offset, length), in bytes."""
        loaded: Ranges = np.load(self.folder / f"state-{number:03d}.ranges.npy")
        return loaded

    def replay(self, path: Path, number: int = 0) -> Replay:
        """Make a working copy at `path`, in the given state, to be rolled forward in place."""
        copy_sparse(self.base_path, path)
        replay = Replay(self, path)
        replay.roll_to(number)
        return replay


class Replay:
    """A raw file that is rolled through the states of a history in place.

    Args:
        history: what to play.
        path: the raw file, in state 0.
    """

    def __init__(self, history: History, path: Path) -> None:
        self.history = history
        self.path = path
        self.number = 0

    @property
    def state(self) -> State:
        """The state that the file is in."""
        return self.history.states[self.number]

    def advance(self) -> State:
        """Roll the file to the next state and return that."""
        number = self.number + 1
        state = self.history.states[number]
        with (
            (self.history.folder / f"state-{number:03d}.bytes").open("rb", buffering=0) as source,
            self.path.open("r+b", buffering=0) as target,
        ):
            target.truncate(state.volume_bytes)
            for offset, length in self.history.ranges(number).tolist():
                os.pwrite(target.fileno(), source.read(length), offset)
        self.number = number
        return state

    def roll_to(self, number: int) -> State:
        """Roll the file forward to the given state; from the base again if it is already past that."""
        if number < self.number:
            copy_sparse(self.history.base_path, self.path)
            self.number = 0
        while self.number < number:
            self.advance()
        return self.state


# --- histories by name


def history_folder() -> Path:
    """The folder that holds all made histories."""
    named = os.environ.get("ROLLFORWARD_HISTORY")
    return Path(named) if named else Path(tempfile.gettempdir()) / f"rollforward-history-{os.getuid()}"


def full_history() -> History:
    """Return the full-size history: 2 GiB, 1.28 GiB of files, 24 changed states of some 1.5 % each."""
    return make_history(history_folder(), 2 * GIB, 1310 * MIB, states=24, seed=1)


def small_history() -> History:
    """Return the small history for quick tests: 64 MiB, 40 MiB of files, 8 changed states."""
    return make_history(history_folder(), 64 * MIB, 40 * MIB, states=8, seed=1)


def make_history(folder: Path, size_bytes: int, used_bytes: int, states: int, seed: int) -> History:
    """Make a history, or find the one that was made before with the same arguments.

    Args:
        folder: where histories are kept; made if missing.
        size_bytes: size of the ext4 volume, a multiple of 4096.
        used_bytes: how many bytes of real files it holds at first.
        states: number of changed states after the base.
        seed: chooses files, places and bytes.

    Returns:
        The history, whose states all pass e2fsck.

    Crash: leaves a folder with a name that begins with a dot, which the next making removes.
    """
    key = f"v{MAKER_VERSION}-{size_bytes >> 20}m-{used_bytes >> 20}m-{states}-{seed}"
    return _once(
        folder,
        key,
        size_bytes * 3,
        lambda at: _record(at, ServerVolume(at, size_bytes, used_bytes, states, seed)),
    )


def shrink_and_grow(folder: Path, size_bytes: int, seed: int) -> History:
    """Make, or find, the history of a volume that shrinks and grows again.

    It is first resized with its file system in it, then cut and extended at sizes that are no multiple of any
    granule, with zeros, with new bytes and with the very bytes that had been cut off before.

    Args:
        folder: where histories are kept; made if missing.
        size_bytes: size of the volume at first, a multiple of 4096.
        seed: chooses files, places and bytes.
    """
    key = f"v{MAKER_VERSION}-resized-{size_bytes >> 20}m-{seed}"
    return _once(folder, key, size_bytes * 4, lambda at: _record(at, ResizedVolume(at, size_bytes, seed)))


def _once(folder: Path, key: str, room_bytes: int, make: Callable[[Path], None]) -> History:
    """Return the history called `key`, made under a lock if it is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / key
    with (folder / f".{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (kept / "history.json").exists():
            if shutil.disk_usage(folder).free < room_bytes:
                raise RuntimeError(f"{folder} needs {room_bytes >> 20} MiB free to make the history {key}")
            making = folder / f".{key}.making"
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            make(making)
            making.rename(kept)
    told = json.loads((kept / "history.json").read_text())
    return History(kept, tuple(State(**state) for state in told["states"]))


# --- recording


def _record(folder: Path, living: LivingVolume) -> None:
    """Take the living volume as base, let it change, and keep every state's differences."""
    before = folder / "before.raw"
    copy_sparse(living.volume, before)
    copy_sparse(living.volume, folder / "base.raw")
    size = living.volume.stat().st_size
    states = [State(0, size, sha256_of(living.volume), 0, clean=True, note="base")]
    with ThreadPoolExecutor(1) as beside:
        for number in range(1, living.states + 1):
            note, clean = living.change(number)
            digest = beside.submit(sha256_of, living.volume)
            written = _keep_differences(before, living.volume, folder / f"state-{number:03d}")
            size = living.volume.stat().st_size
            states.append(State(number, size, digest.result(), written, clean, note))
    before.unlink()
    shutil.rmtree(folder / "work")
    told = {"states": [dataclasses.asdict(state) for state in states]}
    (folder / "history.json").write_text(json.dumps(told, indent=1) + "\n")


def _keep_differences(before: Path, now: Path, stem: Path) -> int:
    """Write what differs to `stem`.bytes and .ranges.npy, and bring `before` up to date; count the bytes."""
    size = now.stat().st_size
    rows: list[tuple[int, int]] = []
    with (
        before.open("r+b", buffering=0) as old_file,
        now.open("rb", buffering=0) as new_file,
        stem.with_suffix(".bytes").open("wb") as kept,
    ):
        old_file.truncate(size)
        old, new = np.empty(8 * MIB, np.uint8), np.empty(8 * MIB, np.uint8)
        for start in range(0, size, len(new)):
            length = min(len(new), size - start)
            os.preadv(old_file.fileno(), [old[:length].data], start)
            os.preadv(new_file.fileno(), [new[:length].data], start)
            for first, end in _differing(old, new, length):
                kept.write(new[first:end].data)
                os.pwrite(old_file.fileno(), new[first:end].data, start + first)
                rows.append((start + first, end - first))
    np.save(stem.with_suffix(".ranges.npy"), np.array(rows, np.int64).reshape(-1, 2))
    return sum(length for _, length in rows)


def _differing(
    old: npt.NDArray[np.uint8], new: npt.NDArray[np.uint8], length: int
) -> Iterator[tuple[int, int]]:
    """Yield the runs of sectors that differ, as (first byte, end byte)."""
    sectors = -(-length // SECTOR_BYTES)
    old[length : sectors * SECTOR_BYTES] = new[length : sectors * SECTOR_BYTES] = 0
    words = slice(0, sectors * SECTOR_BYTES)
    differs = (old[words].view(np.uint64) != new[words].view(np.uint64)).reshape(sectors, -1).any(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], differs, [False])).astype(np.int8)))
    for first, end in (edges.reshape(-1, 2) * SECTOR_BYTES).tolist():
        yield first, min(end, length)
