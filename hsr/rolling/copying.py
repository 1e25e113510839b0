"""Copying a disk that is rolled forward, so that the copy can be finalized and the disk goes on.

A copy is made and finalized in a folder of its own, and gets its name, never over another file, when it is whole. So
whatever bears that name is somebody else's until then, and all that is in the folder is ours.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from blake3 import blake3

from hsr.disks.flat import content_path
from hsr.disks.form import DiskKind
from hsr.disks.forms import form_for
from hsr.disks.medium import Medium
from hsr.disks.side_files import SidePaths
from hsr.disks.vmdk import descriptor
from hsr.rolling.cursor_file import Phase, Standing, read_cursor, remove_cursor, write_cursor
from hsr.rolling.lending import stamp_of
from hsr.rolling.removing import refuse_taken
from policies.errors import FormatError, RollforwardError
from storage.pipeline import Progress

_DESCRIPTOR_BYTES_MAX: Final = 1 << 16


class DiskCopy:
    """A copy of a disk that stands still meanwhile: content, edges and map, then a cursor that has it finalized.

    Args:
        medium: where both lie.
        source: the disk.
        source_paths: its side files.
        target: what the copy is to be called.
        standing: where the disk stands.
        copying: told before anything is copied because blocks cannot be shared.

    Attributes:
        folder: where the copy and its side files lie until it is published: another one for each disk and name.
        path: the copy until then.
    """

    def __init__(
        self,
        medium: Medium,
        source: Path,
        source_paths: SidePaths,
        target: Path,
        standing: Standing,
        copying: Callable[[], None],
    ) -> None:
        self._medium, self._source, self._source_paths = medium, source, source_paths
        self._target, self._copying = target, copying
        self._standing = replace(standing, phase=Phase.FINALIZING)
        number = blake3(standing.job_uid + os.fsencode(source)).hexdigest()[:8]
        self.folder = SidePaths.beside(target).folder / f"{target.name}.{number}.copy"
        self.path = self.folder / target.name
        self._paths = SidePaths(self.folder, target.name)

    def make(self, progress: Progress, stopping: Callable[[], bool]) -> bool:
        """Make the copy, or take one that was made and not finalized.

        Args:
            progress: told how many bytes are copied, of how many.
            stopping: asked several times a second.

        Returns:
            Whether it is whole, and can be finalized; otherwise it was asked to stop, and nothing is left.

        Raises:
            ConfigurationError: the name is taken.
            RestoreError: the medium refuses; nothing is left, if that can be done.

        Crash: a copy that is not whole, which is made anew; or one that is.
        """
        form_for(self._target, self._standing.kind, self._standing.place.disk_bytes)
        self._take_descriptor_back()
        side = SidePaths.beside(self._target)
        refuse_taken(self._medium, self._target, self._standing.kind, side)
        if self._is_made():
            return True
        for folder in (side.folder, self.folder):
            self._medium.make_folder(folder)
            self._medium.sync_folder(folder.parent)
        self._clear()
        is_whole = False
        try:
            is_whole = self._copy_all(progress, stopping)
        finally:
            if not is_whole:
                with contextlib.suppress(RollforwardError):
                    self._discard()
        if is_whole:
            write_cursor(self._medium, self._paths, self._standing)
        return is_whole

    def publish(self) -> None:
        """Give the copy its name, durably; it was finalized, and has no cursor any more.

        Raises:
            ConfigurationError: the name was taken meanwhile; nothing is left.
            RestoreError: the medium refuses; nothing is left, if that can be done.

        Crash: the whole copy has its name; or no disk has it, and the next `make` makes it anew.
        """
        has_extent = self._standing.kind is DiskKind.VMDK_FLAT
        try:
            if has_extent:
                self._medium.publish(self.path, self._target)  # without its extent that is no disk
            try:
                self._medium.publish(self._content, content_path(self._target, self._standing.kind))
            except RollforwardError:
                if has_extent and self._medium.exists(self._content):  # another's extent may bear the name
                    self._medium.rename(self._target, self.path)
                raise
        finally:
            with contextlib.suppress(RollforwardError):  # nobody takes what is left for a disk
                self._discard()

    @property
    def _content(self) -> Path:
        return content_path(self.path, self._standing.kind)

    def _is_made(self) -> bool:
        """Tell whether an interrupted copy needs nothing but finalizing, and its name."""
        try:
            before = read_cursor(self._medium, self._paths)
        except FormatError:
            return False
        is_there = self._medium.exists(self._content)
        return is_there and before == self._standing

    def _copy_all(self, progress: Progress, stopping: Callable[[], bool]) -> bool:
        def told(done_bytes: int, total_bytes: int) -> bool:
            progress(done_bytes, total_bytes)
            return stopping()

        old, new = self._source_paths, self._paths
        pairs = (
            (content_path(self._source, self._standing.kind), self._content, told),
            (old.edges, new.edges, _silent),
            (old.map, new.map, _silent),
        )
        for source, target, listener in pairs:
            if self._medium.clone(source, target):
                continue
            if listener is told:
                self._copying()
            if not self._medium.copy(source, target, listener):
                return False
        self._medium.sync_folder(self.folder)
        return True

    def _take_descriptor_back(self) -> None:
        """Remove the descriptor of a copy whose extent, interrupted in between, has not got its name.

        It is known by its text, but for the identity, which is that of the point where the disk stood then.
        """
        kind, extent = self._standing.kind, content_path(self._target, self._standing.kind)
        is_half = kind is DiskKind.VMDK_FLAT and self._medium.exists(self._content)
        if not is_half or self._medium.exists(self.path) or self._medium.exists(extent):
            return
        form = form_for(self._target, kind, self._standing.place.disk_bytes)
        ours = descriptor(extent.name, form.disk_bytes, stamp_of(self._standing), is_sparse=False)
        found = self._medium.load(self._target, _DESCRIPTOR_BYTES_MAX)
        if found is not None and _without_identity(found) == _without_identity(ours):
            self._medium.remove(self._target)
            self._medium.sync_folder(self._target.parent)

    def _clear(self) -> None:
        """Empty the folder; the cursor goes first, since without one nothing in it counts."""
        remove_cursor(self._medium, self._paths)
        fresh = self.folder / f"{self._paths.name}.descriptor"
        sides = (self._paths.new_map, self._paths.map, self._paths.edges)
        for name in (self._content, self.path, *sides, fresh):
            self._medium.remove(name)
        self._medium.sync_folder(self.folder)

    def _discard(self) -> None:
        self._clear()
        self._medium.remove_folder(self.folder)
        self._medium.sync_folder(self.folder.parent)


def _without_identity(text: bytes) -> list[bytes]:
    return [line for line in text.splitlines() if not line.startswith(b"CID=")]


def _silent(done_bytes: int, total_bytes: int) -> bool:
    del done_bytes, total_bytes
    return False
