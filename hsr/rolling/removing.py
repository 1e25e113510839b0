"""Names that a disk takes, and what is done to have them free again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hsr.disks.flat import content_path
from hsr.disks.form import DiskKind
from hsr.disks.medium import Medium
from hsr.disks.side_files import SidePaths
from hsr.rolling.cursor_file import Phase, Standing, cursor_path, remove_cursor, write_cursor
from policies.cursor import Cursor
from policies.errors import ConfigurationError


def refuse_taken(medium: Medium, path: Path, kind: DiskKind, paths: SidePaths) -> None:
    """Make sure that nothing bears a name that a new disk takes.

    Raises:
        ConfigurationError: something does.
    """
    own = {path, content_path(path, kind)} if kind is not DiskKind.DEVICE else set()
    for name in {*own, paths.map, cursor_path(paths)}:
        if medium.exists(name):
            raise ConfigurationError("exists already", path=str(name))


def remove_disk(path: Path, paths: SidePaths, medium: Medium, standing: Standing) -> None:
    """Remove a disk that is not finalized, and all that lies beside it; of a device, only that.

    Args:
        path: the disk.
        paths: its side files.
        medium: where they lie.
        standing: where it stands.

    Raises:
        RestoreError: the medium refuses.

    Crash: a disk that has to be built, or copied, or removed again.
    """
    if standing.phase is not Phase.COPYING:  # from here on nothing but discarding helps
        write_cursor(medium, paths, blank_of(standing))
    if standing.kind is not DiskKind.DEVICE:
        medium.remove(content_path(path, standing.kind))
        medium.sync_folder(path.parent)
    for side in (paths.new_map, paths.map, paths.edges):
        medium.remove(side)
    medium.sync_folder(paths.folder)
    remove_cursor(medium, paths)


def blank_of(standing: Standing) -> Standing:
    """Say that nothing is known of what a disk holds."""
    return replace(standing, phase=Phase.BUILDING, cursor=Cursor.blank(), goal=None, done_bytes=0)
