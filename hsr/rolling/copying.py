"""Copying a disk that is rolled forward, so that the copy can be finalized and the disk goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hsr.disks.flat import content_path
from hsr.disks.forms import form_for
from hsr.disks.medium import Medium
from hsr.disks.side_files import SidePaths
from hsr.rolling.cursor_file import Phase, Standing, read_cursor, write_cursor
from hsr.rolling.removing import refuse_taken, remove_disk
from policies.errors import ConfigurationError, RestoreError
from storage.pipeline import Progress


class DiskCopy:
    """A copy of a disk that stands still meanwhile: content, edges and map, then a cursor that has it finalized.

    Args:
        medium: where both lie.
        source: the disk.
        source_paths: its side files.
        target: the copy.
        standing: where the disk stands, as a copy that is not whole.
        copying: told before anything is copied because blocks cannot be shared.
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
        self._target, self._paths = target, SidePaths.beside(target)
        self._standing, self._copying = standing, copying

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
        if self._is_made():
            return True
        self._medium.make_folder(self._paths.folder)
        self._medium.sync_folder(self._paths.folder.parent)
        write_cursor(self._medium, self._paths, self._standing)
        try:
            is_whole = self._copy_all(progress, stopping)
        except RestoreError:
            with contextlib.suppress(RestoreError):
                self._remove()
            raise
        if not is_whole:
            self._remove()
            return False
        write_cursor(self._medium, self._paths, replace(self._standing, phase=Phase.FINALIZING))
        return True

    def _is_made(self) -> bool:
        """Tell whether an interrupted copy needs nothing but finalizing; clear one that is not whole."""
        before = read_cursor(self._medium, self._paths)
        if before is None or before.phase is Phase.FINALIZED:
            refuse_taken(self._medium, self._target, self._standing.kind, self._paths)
            return False
        is_ours = replace(before, phase=Phase.COPYING) == self._standing
        if before.phase is Phase.FINALIZING and is_ours:
            return True
        if before.phase is not Phase.COPYING or before.job_uid != self._standing.job_uid:
            raise ConfigurationError("exists already", path=str(self._target))
        remove_disk(self._target, self._paths, self._medium, before)
        return False

    def _copy_all(self, progress: Progress, stopping: Callable[[], bool]) -> bool:
        def told(done_bytes: int, total_bytes: int) -> bool:
            progress(done_bytes, total_bytes)
            return stopping()

        kind, old, new = self._standing.kind, self._source_paths, self._paths
        pairs = (
            (content_path(self._source, kind), content_path(self._target, kind), told),
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
        self._medium.sync_folder(self._target.parent)
        self._medium.sync_folder(new.folder)
        return True

    def _remove(self) -> None:
        remove_disk(self._target, self._paths, self._medium, self._standing)


def _silent(done_bytes: int, total_bytes: int) -> bool:
    del done_bytes, total_bytes
    return False
