"""Devices of HeadStart jobs: taken when a person says so, and at no other time."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from actors.context import AgentContext
from actors.headstart_disk import largest_volume, make_place, place_of
from actors.headstart_errand import discard_files, forget_disk
from actors.headstart_view import holdings_of, view_of_disk
from hsr.disks.device_mark import mark_on
from hsr.disks.devices import device_identity, look_anew, refuse_unfit, what_is_on
from hsr.disks.form import DiskKind
from hsr.rolling.cursor_file import Place
from hsr.rolling.disk import RollingDisk
from hsr.wrapping.layout_tables import SECTOR_BYTES
from hsr.wrapping.wrapping import Wrap
from policies.errors import ConfigurationError
from storage.catalog.headstart import lock_disk, newest_chain
from storage.catalog.headstart_models import HeadStartDisk, HeadStartJob
from storage.catalog.models import EventKind
from storage.source import device_or_file_bytes


def place_on_device(path: Path, job: HeadStartJob, volume_bytes: int, *, overwrite: bool) -> Place:
    """Make sure that a device may be taken for a job, and tell where the volume is to lie on it.

    Args:
        path: the device.
        job: the job; a device that it has taken before needs no `overwrite`.
        volume_bytes: the largest size that the volume is known to have.
        overwrite: whether what lies on the device may go.

    Returns:
        The place. With a GPT the disk is the whole device, since the copy of the table belongs to its end.

    Raises:
        ConfigurationError: it is no block device, or holds something.
        RestoreError: it is in use, too small, or cannot be read.
    """
    place, wrap = place_of(job, volume_bytes), Wrap(job.wrap)
    refuse_unfit(path, place.disk_bytes, in_sectors=wrap is not Wrap.NONE)
    if not overwrite and not _is_taken_for(path, job):
        found = what_is_on(path)
        if found is not None:
            raise ConfigurationError(
                f"holds {found}", path=str(path), hint="Say --overwrite if nobody needs that any more."
            )
    if wrap is Wrap.GPT:
        return place_of(job, volume_bytes, disk_bytes=_size(path) // SECTOR_BYTES * SECTOR_BYTES)
    return place


def _size(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return device_or_file_bytes(fd, path)
    finally:
        os.close(fd)


def _is_taken_for(path: Path, job: HeadStartJob) -> bool:
    """Tell whether a device bears the mark of an unfinished disk of a job, and is no copy of the one that got it."""
    mark = mark_on(path)
    is_ours = mark is not None and job.uid is not None and mark.claim.owner.hex() == job.uid
    return (
        is_ours
        and mark is not None
        and (mark.size_bytes, mark.identity) == (_size(path), device_identity(path))
    )


def take_device(context: AgentContext, disk_id: int, *, overwrite: bool) -> Path | None:
    """Make a device that is held an unfinished disk of its job, to be built from the newest base.

    Args:
        context: surroundings of this process.
        disk_id: the disk.
        overwrite: whether what lies on the device may go.

    Returns:
        As `discard_files`.

    Raises:
        RollforwardError: as `place_on_device`, `discard_files` and `RollingDisk.begin` do.

    Crash: the device as it was, or one that no agent touches before the same is done again.
    """
    with context.catalog.read() as session:
        disk = session.get_one(HeadStartDisk, disk_id)
        view = view_of_disk(context, session, session.get_one(HeadStartJob, disk.job_id), disk)
        chain = newest_chain(session, view.job, disk)
        if chain is None:
            raise ConfigurationError(
                f"no verified base of {disk.volume} is there yet",
                path=view.folder.path,
                hint="Try again once one is.",
            )
        fresh = replace(view, chain=chain, holdings=holdings_of(session, chain), standing=None)
    place = place_on_device(view.path, view.job, largest_volume(fresh), overwrite=overwrite)
    make_place(view)
    aside = discard_files(view)
    RollingDisk.begin(
        view.path,
        DiskKind.DEVICE,
        place,
        job_uid=bytes.fromhex(view.job.uid),
        chain_id=chain.chain_uid,
        side_folder=view.side_folder,
    ).close()
    look_anew(view.path)
    with context.catalog.write() as session:
        row = lock_disk(session, disk_id)
        if row is not None:
            forget_disk(session, view, row)
            row.is_begun = True
            text = f"{view.path} was taken, to be built from the newest base"
            context.note(session, EventKind.STARTED, view.title, text, folder_id=view.folder.id)
    return aside
