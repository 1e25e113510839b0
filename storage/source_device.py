"""A file or device in use as the source of a capture: its file system frozen, or vouched for by those who use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from policies.errors import ConfigurationError
from storage.freezing import Frozen
from storage.source import CaptureStep, Ranges, Source, VolumeSource, mounted_on
from storage.source_lvm import LvmSnapshot
from storage.used_blocks import UsedBlocks


@dataclass(frozen=True, slots=True)
class Stillness:
    """What keeps a device from changing while it is read.

    Attributes:
        mount_point: the file system on it is frozen; None for none.
        freeze_limit_s: for how many seconds at most.
        snapshot: whether an LVM snapshot is read in its place.
        snapshot_size: room for what is overwritten meanwhile, as `lvcreate` takes it for --size or --extents.
        vouched: whether somebody else sees to it, so that a device that is mounted read-write is taken.
    """

    mount_point: Path | None = None
    freeze_limit_s: float = 300.0
    snapshot: bool = False
    snapshot_size: str = "20%ORIGIN"
    vouched: bool = False


class DeviceAccess:
    """Opens a file or device that is kept still meanwhile.

    Args:
        path: the file or device.
        still: what keeps it still.
        folder: where images go: it must not lie on what is frozen.
        used: finds the ranges that are free and count as zero; None to take all as it is.

    Attributes:
        notes: what the caller should be told.
        reads_marked: whether only what is marked is read: no.
    """

    def __init__(
        self,
        path: Path,
        still: Stillness,
        folder: Path,
        used: Callable[[Path, list[str]], UsedBlocks | None] | None = None,
    ) -> None:
        self._path = path
        self._still = still
        self._folder = folder
        self._used = used
        self.notes: list[str] = []
        self.reads_marked = False

    @contextmanager
    def open(self, step: CaptureStep) -> Iterator[Source]:
        """Make it still, and open it.

        Raises:
            ConfigurationError: the frozen file system is not on it; a tool is missing.
            SourceError: it cannot be frozen, or no snapshot of it can be made, or it is in use otherwise.

        Crash: the file system is thawed at once; a snapshot stays, and is removed by the next capture.
        """
        with ExitStack() as stack:
            frozen = self._freeze()
            checks: list[Callable[[], None]] = []
            path = self._path
            if self._still.snapshot:
                snapshot = LvmSnapshot(self._path, step.keeper, self._still.snapshot_size, self.notes.append)
                with frozen or ExitStack():
                    path = stack.enter_context(snapshot)
                checks.append(snapshot.confirm)
            elif frozen is not None:
                stack.enter_context(frozen)
                checks.append(frozen.confirm)
            mount_point = None if self._still.snapshot or frozen is None else frozen.mount_point
            vouched = self._still.vouched and not self._still.snapshot
            source = stack.enter_context(
                VolumeSource(path, self._path, frozen_at=mount_point, vouched=vouched)
            )
            used = None if self._used is None else self._used(path, self.notes)
            yield StillSource(source, checks, used)

    def _freeze(self) -> Frozen | None:
        mount_point = self._still.mount_point
        if mount_point is None:
            return None
        if not mounted_on(self._path, mount_point):
            raise ConfigurationError(f"the file system there is not on {self._path}", path=str(mount_point))
        return Frozen(mount_point, self._still.freeze_limit_s, self._folder)


class StillSource:
    """A source that counts only if what kept it still did so until the end.

    Args:
        source: what is read.
        checks: each raises SourceError if it did not.
        used: free ranges, which read as zero; None to take all as it is.
    """

    def __init__(
        self, source: VolumeSource, checks: Sequence[Callable[[], None]], used: UsedBlocks | None
    ) -> None:
        self._source = source
        self._checks = checks
        self._used = used
        self.name = source.name
        self.size_bytes = source.size_bytes
        self.facts: Mapping[str, object] = {
            **source.facts,
            **({"used_only": used.kind} if used else {}),
        }

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer from `offset`; what is free is not read, and zero."""
        if self._used is None:
            self._source.read_into(offset, buffer)
            return
        at = offset
        for first, stop in self._used.free_within(offset, offset + len(buffer)):
            self._source.read_into(at, buffer[at - offset : first - offset])
            buffer[first - offset : stop - offset] = bytes(stop - first)
            at = stop
        self._source.read_into(at, buffer[at - offset :])

    def read_pieces(self, pieces: Sequence[tuple[int, memoryview]]) -> None:
        """Fill several buffers, each from its offset; otherwise as `read_into`."""
        for offset, buffer in pieces:
            self.read_into(offset, buffer)

    def next_stored(self, offset: int) -> int:
        """Return where the next bytes at or after `offset` lie that may differ from zero; the size if none do."""
        while (stored := self._source.next_stored(offset)) < self.size_bytes and self._used is not None:
            offset = self._used.next_used(stored)
            if offset == stored:
                break
        return stored

    def marked(self) -> Iterator[Ranges] | None:
        """Tell that nobody marks what changes."""
        return None

    def confirm(self) -> None:
        """Make sure that it was still, and kept its size."""
        self._source.confirm()
        for check in self._checks:
            check()
