"""Names that a disk takes, and what is done to have them free again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from hsr.disks.flat import content_path
from hsr.disks.form import DiskKind
from hsr.disks.medium import DiskFile, Medium
from hsr.disks.side_files import DiskMap, SidePaths, open_map
from hsr.rolling.cursor_file import (
    Phase,
    Standing,
    cursor_path,
    fresh_cursor_path,
    read_cursor,
    remove_cursor,
    write_cursor,
)
from policies.cursor import Cursor
from policies.errors import ConfigurationError, FormatError


def refuse_taken(medium: Medium, path: Path, kind: DiskKind, paths: SidePaths) -> None:
    """Make sure that nothing bears a name that a new disk takes.

    What says that a disk was finalized here, which was moved away since, is no hindrance.

    Raises:
        ConfigurationError: something does.
        FormatError: there is a damaged cursor.
        RestoreError: the medium refuses.
    """
    own = {path, content_path(path, kind)} if kind is not DiskKind.DEVICE else set()
    for name in {*own, paths.map}:
        if medium.exists(name):
            raise ConfigurationError("exists already", path=str(name))
    before = read_cursor(medium, paths)
    if before is not None and before.phase is not Phase.FINALIZED:
        raise ConfigurationError("exists already", path=str(cursor_path(paths)))


def remove_disk(
    path: Path, paths: SidePaths, medium: Medium, standing: Standing, lock: DiskFile | None = None
) -> None:
    """Remove a disk that is not finalized, and all that lies beside it; of a device, only that.

    Args:
        path: the disk.
        paths: its side files.
        medium: where they lie.
        standing: where it stands.
        lock: its map, open; closed before that is removed, since shares may not remove what is open.

    Raises:
        RestoreError: the medium refuses.

    Crash: a disk that has to be built, or removed again.
    """
    write_cursor(medium, paths, blank_of(standing))  # from here on nothing but discarding helps
    if standing.kind is not DiskKind.DEVICE:
        medium.remove(content_path(path, standing.kind))
        medium.sync_folder(path.parent)
    if lock is not None:
        lock.close()
    for side in (paths.new_map, paths.map, paths.edges):
        medium.remove(side)
    medium.sync_folder(paths.folder)
    remove_cursor(medium, paths)


def blank_of(standing: Standing) -> Standing:
    """Say that nothing is known of what a disk holds."""
    return replace(standing, phase=Phase.BUILDING, cursor=Cursor.blank(), goal=None, done_bytes=0, loan=None)


def set_aside(path: Path, kind: DiskKind, paths: SidePaths, medium: Medium) -> Path:
    """Move a disk whose cursor cannot be read out of the way, with all that lies beside it. Nothing is removed.

    The disk's own file is moved only where its map proves that it is unfinished, since nobody uses it then.

    Args:
        path: the disk.
        kind: what it was to be; of a device only the side files are moved.
        paths: its side files.
        medium: where they lie.

    Returns:
        The folder where all of it lies now, below that of the side files.

    Raises:
        BusyError: somebody is at work on the disk.
        ConfigurationError: nothing proves that the disk's file is unfinished; all is as it was.
        RestoreError: the medium refuses.

    Crash: parts of it are moved, the cursor last; doing it again moves the rest to the same folder.
    """
    disk_map = _map_if_sound(path, paths, medium)
    try:
        own = [] if kind is DiskKind.DEVICE else [content_path(path, kind)]
        own = [name for name in own if medium.exists(name)]
        if own and not _is_unfinished(own[0], disk_map, medium):
            raise ConfigurationError(
                "nothing proves that this disk is unfinished, since its cursor is damaged; it is left where it is",
                path=str(own[0]),
                hint="Move it away, then say the same again.",
            )
        sides = (paths.new_map, paths.edges, paths.map, fresh_cursor_path(paths), cursor_path(paths))
        found = [*own, *(name for name in sides if medium.exists(name))]
        folder = _free_folder(found, paths, medium)
        medium.make_folder(folder)
        medium.sync_folder(paths.folder)
        for name in found:
            if disk_map is not None and name == paths.map:
                disk_map.close()  # some shares rename nothing that is open
            medium.rename(name, folder / name.name)
            medium.sync_folder(folder)
            medium.sync_folder(name.parent)
    finally:
        if disk_map is not None:
            disk_map.close()
    return folder


def _map_if_sound(path: Path, paths: SidePaths, medium: Medium) -> DiskMap | None:
    if not medium.exists(paths.map):
        return None
    try:
        return open_map(medium, paths, path)[0]
    except FormatError:
        return None


def _is_unfinished(content: Path, disk_map: DiskMap | None, medium: Medium) -> bool:
    """Tell whether a disk's own file surely is that of its map, and no disk yet."""
    if disk_map is None or disk_map.state.is_finalizing or disk_map.state.is_lent:
        return False
    return disk_map.state.is_started or not medium.load(content, 1)


def _free_folder(found: Sequence[Path], paths: SidePaths, medium: Medium) -> Path:
    """Choose where some files go: where an interrupted move put the others, or to a new folder."""
    for number in count(1):
        folder = paths.folder / f"{paths.name}.aside-{number}"
        if not any(medium.exists(folder / name.name) for name in found):
            break
    return folder
