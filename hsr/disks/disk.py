"""A virtual disk that is rolled forward: written at random, interrupted at will, and no disk until finalized.

The order of things is what makes it safe. Content is synced before the map names where it lies, and whoever writes
closes the cursor after that. So whatever a crash takes, a block in the map has all that was synced, and one that is not
in it reads as zero. What tells a reader that a file is a disk is written when it is finalized, and not before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from secrets import token_bytes
from typing import Final, Protocol, Self

import numpy as np

from hsr.disks.content import Content, FlatContent, SlottedContent
from hsr.disks.device_mark import DeviceMark, Front, front_of, refuse_other
from hsr.disks.edges import FRONT_BYTES, Edges
from hsr.disks.flat import content_path
from hsr.disks.form import HIDDEN_BYTES, DiskForm, DiskKind, Part, Stamp
from hsr.disks.forms import form_for
from hsr.disks.medium import DiskFile, LocalMedium, Medium
from hsr.disks.pieces import Pieces
from hsr.disks.side_files import Claim, DiskMap, SidePaths, make_map, open_map
from hsr.disks.vmdk import descriptor
from policies.errors import ConfigurationError, RestoreError

_MARK_BYTES: Final = 8
"""So much of the last signature is never changed by whoever uses a disk."""


class VirtualDisk(Protocol):
    """A disk that is being written. A context manager; leaving it closes the disk without a sync."""

    @property
    def kind(self) -> DiskKind:
        """What it is to be."""

    @property
    def size_bytes(self) -> int:
        """What fits on it."""

    @property
    def is_finalizing(self) -> bool:
        """Whether it takes no more writes, and can only be finalized."""

    @property
    def serial(self) -> int:
        """A number to keep with the cursor: `open_disk` then knows how much of the map there has to be."""

    def write(self, pieces: Pieces) -> None:
        """Write pieces."""

    def zero(self, start: int, stop: int) -> None:
        """Make a range read as zero."""

    def read(self, offset: int, size: int) -> bytes:
        """Return what was written; what never was is zero."""

    def sync(self) -> None:
        """Make all durable, content before map."""

    def finalize(self, stamp: Stamp) -> None:
        """Make it a disk, and close it."""

    def lay_out(self, stamp: Stamp) -> None:
        """Have it lent: write all of a disk but what shows that it is one."""

    def sign(self, stamp: Stamp) -> None:
        """Write what shows that it is a disk."""

    def is_as_signed(self, stamp: Stamp) -> bool:
        """Tell whether what shows that it is a disk is all there, byte for byte."""

    def hide(self, stamp: Stamp) -> None:
        """Take it back: have it show nothing again."""

    def close(self) -> None:
        """Close it."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def create_disk(
    path: Path,
    kind: DiskKind,
    size_bytes: int,
    *,
    side_folder: Path | None = None,
    owner: bytes = bytes(16),
    medium: Medium | None = None,
) -> VirtualDisk:
    """Begin a disk. It reads as zero; a block device as what it held, so that all of it has to be written or zeroed.

    Both ends of a device are zeroed, and it is marked, whatever it held; that nobody uses it is made sure of.

    Args:
        path: where it is to be: a name that nothing bears, in a folder that exists; or a block device.
        kind: what it is to be.
        size_bytes: what is to fit on it.
        side_folder: where its side files go; a device needs one. Else `.rollforward-hsr` beside the disk.
        owner: 16 bytes: whose a device is from now on, as its mark says.
        medium: what does the work.

    Raises:
        BusyError: somebody else works on it.
        ConfigurationError: the name is taken, or the kind cannot hold so much.
        RestoreError: the medium refuses.

    Crash: nothing, or a disk that `open_disk` opens; a device that was not marked whole has to be begun anew.
    """
    medium = medium or LocalMedium()
    paths = _side_paths(path, kind, side_folder)
    form = form_for(path, kind, size_bytes)
    if kind is DiskKind.DEVICE and size_bytes < FRONT_BYTES:
        raise ConfigurationError(f"is to hold less than {FRONT_BYTES:,} bytes", path=str(path))
    taken = [content_path(path, kind)] if kind is not DiskKind.DEVICE else []
    for name in {path, *taken, paths.map} - ({path} if kind is DiskKind.DEVICE else set()):
        if medium.exists(name):
            raise ConfigurationError("exists already", path=str(name))
    claim = Claim(owner, token_bytes(16)) if kind is DiskKind.DEVICE else Claim()
    make_map(medium, paths, form, size_bytes, claim)
    return _opened(path, paths, medium, serial=0, begins=True)


def open_disk(
    path: Path, *, serial: int = 0, side_folder: Path | None = None, medium: Medium | None = None
) -> VirtualDisk:
    """Go on with a disk that is not finalized.

    Args:
        path: the disk.
        serial: what `serial` was after the last sync that is known of. A damaged end of the map is not taken for a
            torn one then.
        side_folder: where its side files are, if that was said when it was begun.
        medium: what does the work.

    Raises:
        BusyError: somebody else works on it.
        ConfigurationError: it is finalized, or never was begun.
        FormatError: its map is damaged.
        RestoreError: the medium refuses, or the disk's own file is gone; or a device is not the one that was begun.

    Crash: the disk as it was.
    """
    medium = medium or LocalMedium()
    paths = SidePaths(side_folder, path.name) if side_folder else SidePaths.beside(path)
    return _opened(path, paths, medium, serial=serial, begins=False)


def _opened(path: Path, paths: SidePaths, medium: Medium, *, serial: int, begins: bool) -> VirtualDisk:
    if not medium.exists(paths.map):
        raise ConfigurationError(
            "is no disk that can be rolled on", path=str(path), hint="A finalized disk takes no more points."
        )
    disk_map, form = open_map(medium, paths, path, serial)
    with contextlib.ExitStack() as opened:
        opened.callback(disk_map.close)
        edges = Edges(medium.open(paths.edges), disk_map.size_bytes)
        opened.callback(edges.close)
        if form.kind is DiskKind.DEVICE and not (begins or disk_map.state.is_started):
            raise RestoreError("was never taken whole", path=str(path), hint="Say --fresh to have it taken.")
        file = _content_file(medium, content_path(path, form.kind), form.kind, disk_map)
        opened.callback(file.close)
        front = bytes(min(FRONT_BYTES, disk_map.size_bytes))
        if form.kind is DiskKind.DEVICE:
            front = _marked_front(path, medium, disk_map, edges, file)
        disk = _Disk(medium, path, paths, form, disk_map, edges, file, front)
        opened.pop_all()
        return disk


def _side_paths(path: Path, kind: DiskKind, side_folder: Path | None) -> SidePaths:
    if kind is DiskKind.DEVICE and side_folder is None:
        raise ConfigurationError("is a device, so its side files need a folder", path=str(path))
    return SidePaths(side_folder, path.name) if side_folder else SidePaths.beside(path)


def _content_file(medium: Medium, path: Path, kind: DiskKind, disk_map: DiskMap) -> DiskFile:
    """Open the disk's own file; make it, if that has not been done yet."""
    is_there = medium.exists(path)
    if disk_map.state.is_started or kind is DiskKind.DEVICE:
        if not is_there:
            raise RestoreError("is gone", path=str(path), hint="Have it built anew.")
        file = medium.open(path)
    else:
        file = medium.open(path, create=not is_there)
    try:
        if not disk_map.state.is_started:
            if kind is DiskKind.DEVICE:
                _take_device(file, path, medium, disk_map)
            elif file.size_bytes():
                raise ConfigurationError("exists already", path=str(path))
            file.sync()
            medium.sync_folder(path.parent)
            disk_map.start()
    except BaseException:
        file.close()
        raise
    return file


def _take_device(file: DiskFile, path: Path, medium: Medium, disk_map: DiskMap) -> None:
    """Have a device show nothing at its ends, and at those of the disk that it is to be; then mark it."""
    found_bytes, size_bytes = file.size_bytes(), disk_map.size_bytes
    if found_bytes < size_bytes:
        raise RestoreError(
            "is too small", path=str(path), expected=f"{size_bytes:,} bytes", actual=f"{found_bytes:,}"
        )
    mark = DeviceMark(disk_map.claim, found_bytes, medium.identity(path))
    edge_bytes = min(HIDDEN_BYTES, size_bytes)
    for end in {edge_bytes, size_bytes, found_bytes}:
        file.zero(end - edge_bytes, edge_bytes)
    file.sync()
    file.write(mark.front(), 0)


def _marked_front(path: Path, medium: Medium, disk_map: DiskMap, edges: Edges, file: DiskFile) -> bytes:
    """Return what the front of a device is to be while it is unfinished; refuse a device that is another one."""
    mark = DeviceMark(disk_map.claim, file.size_bytes(), medium.identity(path))
    size = min(FRONT_BYTES, disk_map.size_bytes)
    goal = edges.read(0, size) if disk_map.state.is_settled else None
    refuse_other(path, file.read(0, size), mark, goal)
    return mark.front()[:size]


class _Disk:
    """See `VirtualDisk`, `create_disk` and `open_disk`."""

    def __init__(
        self,
        medium: Medium,
        path: Path,
        paths: SidePaths,
        form: DiskForm,
        disk_map: DiskMap,
        edges: Edges,
        file: DiskFile,
        unfinished: bytes,
    ) -> None:
        self._medium, self._path, self._paths = medium, path, paths
        self._form, self._map, self._edges, self._file = form, disk_map, edges, file
        self._unfinished = unfinished
        self.kind, self.size_bytes = form.kind, disk_map.size_bytes
        self._content: Content = (
            FlatContent(file, form.disk_bytes)
            if form.slots is None
            else SlottedContent(file, form.slots, disk_map)
        )
        self._is_torn = False

    @property
    def is_finalizing(self) -> bool:
        """Whether it takes no more writes, and can only be finalized."""
        return self._map.state.is_finalizing

    @property
    def serial(self) -> int:
        """A number to keep with the cursor; see `VirtualDisk`."""
        return self._map.state.serial

    def write(self, pieces: Pieces) -> None:
        """Write pieces.

        What is zero takes no room where nothing else was written.

        Args:
            pieces: what and where; ascending, within the disk's size.

        Raises:
            ConfigurationError: it is being finalized.
            RestoreError: the medium refuses; the disk has to be opened again.

        Crash: any part of them is there, sector by sector, until `sync`.
        """
        if not pieces.are_sound(self.size_bytes):
            raise ValueError("pieces overlap, are out of order, or lie outside the disk")
        with self._changing():
            rest = self._edges.write(pieces)
            if len(rest.offsets):
                self._content.write(rest)

    def zero(self, start: int, stop: int) -> None:
        """Make a range read as zero.

        Args:
            start: its first byte.
            stop: the byte after its last.

        Raises:
            ConfigurationError: it is being finalized.
            RestoreError: the medium refuses; the disk has to be opened again.

        Crash: any part of it is zero, sector by sector, until `sync`.
        """
        if not 0 <= start <= stop <= self.size_bytes:
            raise ValueError("the range lies outside the disk")
        with self._changing():
            self._content.zero(*self._edges.zero(start, stop))

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes as they are, not for speed.

        Args:
            offset: the first one.
            size: how many, within the disk's size.

        Raises:
            RestoreError: the medium refuses.
        """
        if not 0 <= offset <= offset + size <= self.size_bytes:
            raise ValueError("the range lies outside the disk")
        front, within, back = self._edges.cut(offset, offset + size)
        parts = (
            self._edges.read(*front),
            self._content.read(within[0], within[1] - within[0]),
            self._edges.read(*back),
        )
        return b"".join(parts)

    def sync(self) -> None:
        """Make all that was written durable, and then the map; only after it may a cursor be closed.

        Raises:
            RestoreError: the medium refuses; the disk has to be opened again, and all since the last sync written.

        Crash: durable or not, sector by sector.
        """
        with self._whole():
            self._map.settle_records()
            self._edges.sync()
            self._content.sync()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        if self.is_finalizing:
            raise ConfigurationError(
                "is being finalized, and takes no more points", path=str(self._path), hint="Finalize it."
            )
        if self._map.state.is_lent:
            raise ConfigurationError(
                "is lent, and takes no points", path=str(self._path), hint="Take it back."
            )
        with self._whole():
            self._map.settle_records()
            yield

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """Let no more be done after a failure: the kernel reports a lost write once, and forgets it."""
        if self._is_torn:
            raise RestoreError("has to be opened again after what happened to it", path=str(self._path))
        self._is_torn = True
        yield
        self._is_torn = False

    def finalize(self, stamp: Stamp) -> None:
        """Make it a disk that any program opens, and close it.

        Args:
            stamp: what it is to say of itself; to go on after an interruption, the same as before.

        Raises:
            RestoreError: the medium refuses; open it again, and finalize it.

        Crash: no disk, or the whole disk; until its map is gone, `open_disk` and `finalize` go on.
        """
        self.sync()
        with self._whole():
            used = self._map.state.used
            if not (self.is_finalizing and self._bears_signature(used, stamp)):
                if not self.is_finalizing:
                    self._map.begin_finalizing()
                self._put_tables(stamp)
                if self._is_bare and not self._map.state.is_settled:
                    self._map.settle()
                self._put_signatures(stamp)
            self._file.sync()  # one that was killed may have left the last of it in the cache alone
            if self.kind is DiskKind.VMDK_FLAT:
                self._medium.sync_folder(self._path.parent)
        self.close()
        self._remove_side_files()

    def _put_tables(self, stamp: Stamp) -> None:
        """Write all that is missing, but for what shows that it is a disk."""
        used = self._map.state.used
        self._settle_edges()
        self._file.truncate(self._form.file_bytes(used))
        self._put(self._form.tables(used, stamp))

    def _put_signatures(self, stamp: Stamp) -> None:
        """Write what shows that it is a disk, the most telling last."""
        for part in self._signatures(stamp):
            self._put([part])
        if self.kind is DiskKind.VMDK_FLAT:
            self._publish_descriptor(stamp)

    def _signatures(self, stamp: Stamp) -> Sequence[Part]:
        """Return what shows that it is a disk; of one that is its file, the first bytes of its content."""
        if self._is_bare:
            return [(0, self._edges.read(0, min(FRONT_BYTES, self.size_bytes)))]
        return self._form.signatures(self._map.state.used, stamp)

    @property
    def _is_bare(self) -> bool:
        """Whether nothing but its content shows that it is a disk."""
        return self.kind in (DiskKind.RAW, DiskKind.DEVICE)

    def lay_out(self, stamp: Stamp) -> None:
        """Have it lent: write all of a disk but what shows that it is one. It takes no writes until `hide`.

        Args:
            stamp: what it is to say of itself.

        Raises:
            RestoreError: the medium refuses; open it again, and hide it.

        Crash: no disk; `open_disk` and `hide` make it what it was.
        """
        self.sync()
        with self._whole():
            self._map.begin_lending()
            self._put_tables(stamp)

    def sign(self, stamp: Stamp) -> None:
        """Write what shows that it is a disk; it was laid out.

        Args:
            stamp: the same as it was laid out with.

        Raises:
            RestoreError: the medium refuses; open it again, and hide it.

        Crash: no disk, or the whole disk; `open_disk` and `hide` make it what it was.
        """
        with self._whole():
            self._put_signatures(stamp)

    def is_as_signed(self, stamp: Stamp) -> bool:
        """Tell whether what shows that it is a disk is all there, byte for byte.

        Args:
            stamp: what it was signed with.

        Raises:
            RestoreError: the medium refuses.
        """
        if self.kind is DiskKind.VMDK_FLAT:
            text = self._descriptor(stamp)
            return self._medium.load(self._path, len(text) + 1) == text
        return all(self._file.read(offset, len(part)) == part for offset, part in self._signatures(stamp))

    def hide(self, stamp: Stamp) -> None:
        """Take it back: what shows that it is a disk goes first, then all else that `lay_out` wrote.

        Args:
            stamp: what it was signed with.

        Raises:
            RestoreError: the medium refuses; open it again, and hide it.

        Crash: the whole disk, or no disk; hiding again goes on.
        """
        with self._whole():
            found_bytes = self._file.size_bytes()
            if self.kind is DiskKind.VMDK_FLAT:
                self._medium.remove(self._path)
                self._medium.sync_folder(self._path.parent)
            for offset, part in reversed(self._signatures(stamp)):
                if offset + len(part) <= found_bytes:
                    self._file.zero(offset, len(part))
                    self._file.sync()
            slots = self._form.slots
            if slots is not None:
                self._file.zero(0, min(slots.offset, found_bytes))
            for offset, content in self._edges.content():
                self._content.zero(offset, offset + len(content))
            self._file.truncate(self._content.end_bytes())
            self._file.sync()
            if self._map.state.is_lent:
                self._map.end_lending()

    def _bears_signature(self, used: np.ndarray[tuple[int], np.dtype[np.int32]], stamp: Stamp) -> bool:
        """Tell whether the very last step was done, so that somebody may use the disk already."""
        if self.kind is DiskKind.VMDK_FLAT:
            return self._medium.exists(self._path)
        signatures = self._form.signatures(used, stamp)
        if not signatures:
            size = len(self._unfinished)
            found, finished = self._file.read(0, size), self._edges.read(0, size)
            front = front_of(
                found, self._unfinished, finished
            )  # of nothing but zeros, it may look unfinished, too
            is_done = found == finished or front in (Front.FINISHED, Front.STRANGE)
            return self._map.state.is_settled and is_done
        offset, signature = signatures[-1]
        return self._file.read(offset, _MARK_BYTES) == signature[:_MARK_BYTES]

    def _settle_edges(self) -> None:
        """Put the edges to their places, but for what has to come last."""
        for offset, content in self._edges.content():
            begin = FRONT_BYTES if offset == 0 and self._is_bare else 0
            if len(content) > begin:
                self._content.write(Pieces.single(offset + begin, content[begin:]))
        self._content.sync()

    def _put(self, parts: Iterator[Part] | Sequence[Part]) -> None:
        for offset, part in parts:
            self._file.write(part, offset)
        self._file.sync()

    def _descriptor(self, stamp: Stamp) -> bytes:
        extent = content_path(self._path, self.kind)
        return descriptor(extent.name, self._form.disk_bytes, stamp, is_sparse=False)

    def _publish_descriptor(self, stamp: Stamp) -> None:
        text = self._descriptor(stamp)
        fresh = self._paths.folder / f"{self._paths.name}.descriptor"
        self._medium.remove(fresh)
        file = self._medium.open(fresh, create=True)
        try:
            file.write(text, 0)
            file.sync()
        finally:
            file.close()
        self._medium.sync_folder(fresh.parent)
        self._medium.rename(fresh, self._path)
        self._medium.sync_folder(self._path.parent)

    def _remove_side_files(self) -> None:
        for path in (self._paths.new_map, self._paths.map, self._paths.edges):
            self._medium.remove(path)
        self._medium.sync_folder(self._paths.folder)

    def close(self) -> None:
        """Close it; what was not synced may be lost."""
        with contextlib.ExitStack() as opened:  # the map last: its lock keeps others away from all of it
            for part in (self._map, self._edges, self._file):
                opened.callback(part.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
