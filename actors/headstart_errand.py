"""What a person has done with a HeadStart disk: rolled on whatever its lag, finalized, copied, begun anew, removed.

The disk is held meanwhile: the agent lets go of it and leaves it alone until the errand is over, or its process gone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from actors.context import AgentContext
from actors.headstart import (
    claim_for,
    claim_images,
    how_many,
    mirror_disk,
    note_rolled,
    record_end,
)
from actors.headstart_disk import bring_to_goal, key_of, patches_of
from actors.headstart_view import DiskView, disk_title, sent_to, view_of_disk
from hsr.disks.devices import look_anew
from hsr.disks.form import DiskKind, Part
from hsr.disks.shares import refuse_unmounted
from hsr.exchange.child import QcowChild, discard_partial, is_child_of
from hsr.rolling.cursor_file import Phase
from hsr.rolling.disk import (
    RollingDisk,
    discard,
    finalize_at,
    forget_end,
    read_standing,
    set_damaged_aside,
)
from hsr.rolling.lending import take_back
from policies.errors import (
    BusyError,
    CatalogError,
    ConfigurationError,
    FormatError,
    RestoreError,
)
from policies.headstart import DiskState
from policies.points import Point
from storage.catalog.chains import AT_ONCE
from storage.catalog.headstart import is_held, lock_disk, release_disk
from storage.catalog.headstart_models import HeadStartDisk, HeadStartJob, LocationKind
from storage.catalog.leases import is_alive, renew
from storage.catalog.models import Attempt, Chain, EventKind, WorkKind
from storage.pipeline import Progress

_HELD_FOR: Final = timedelta(minutes=2)
_RENEW_S: Final = 30.0
_WAIT_S: Final = 0.2
_TURNS_MAX: Final = 10_000

Waiting = Callable[[], None]
"""Called once when the agent has to let go of the disk first."""


@contextmanager
def held_disk(
    context: AgentContext, disk_id: int, waiting: Waiting, patience_s: float = 300.0
) -> Iterator[None]:
    """Hold a disk, so that the agent leaves it alone; wait until it has let go.

    Args:
        context: surroundings of this process.
        disk_id: the disk.
        waiting: called if there is anything to wait for.
        patience_s: so long is waited.

    Raises:
        BusyError: another command holds it, or the agent does not let go.
        ConfigurationError: there is no such disk any more.

    Crash: the disk is free once this process is gone.
    """
    with context.catalog.write() as session:
        disk = lock_disk(session, disk_id)
        if disk is None:
            raise ConfigurationError("the disk is no longer there")
        if is_held(disk, context.machine_clock()) and disk.held_by != str(context.holder):
            raise BusyError("another command is at this disk", path=disk.file_name)
        disk.held_by = str(context.holder)
        disk.held_until = context.machine_clock() + _HELD_FOR
    ended = threading.Event()
    keeper = threading.Thread(target=_keep, args=(context, disk_id, ended), name="holding", daemon=True)
    keeper.start()
    try:
        _wait_for_agent(context, disk_id, waiting, patience_s)
        yield
    finally:
        ended.set()
        keeper.join()
        with context.catalog.write() as session:
            mine = (HeadStartDisk.id == disk_id, HeadStartDisk.held_by == str(context.holder))
            free = {"held_by": None, "held_until": None, "next_due_at": AT_ONCE}
            session.execute(update(HeadStartDisk).where(*mine).values(**free))


def _keep(context: AgentContext, disk_id: int, ended: threading.Event) -> None:
    while not ended.wait(_RENEW_S):
        try:
            with context.catalog.write() as session:
                until = context.machine_clock() + _HELD_FOR
                mine = (HeadStartDisk.id == disk_id, HeadStartDisk.held_by == str(context.holder))
                session.execute(update(HeadStartDisk).where(*mine).values(held_until=until))
                renew(session, context.holder, (), (), expires_at=until)
        except CatalogError:
            continue  # tried again in time


def _wait_for_agent(context: AgentContext, disk_id: int, waiting: Waiting, patience_s: float) -> None:
    with context.catalog.read() as session:
        disk = session.get_one(HeadStartDisk, disk_id)
        job = session.get_one(HeadStartJob, disk.job_id)
    mine = (Attempt.kind == WorkKind.HEADSTART, Attempt.subject == f"{job.uid} {disk.volume}")
    pause = threading.Event()
    for turn in range(round(patience_s / _WAIT_S)):
        with context.catalog.read() as session:
            rows = list(session.scalars(select(Attempt).where(*mine)))
        now = context.machine_clock()
        if not any(row.holder is not None and is_alive(row.holder, row.expires_at, now) for row in rows):
            return
        if turn == 0:
            waiting()
        pause.wait(_WAIT_S)
    raise BusyError(f"the agent does not let go of the disk of {disk_title(job, disk)}", path=disk.file_name)


def look_at_disk(context: AgentContext, disk_id: int) -> DiskView:
    """Load a disk as it is now, whether anything is due for it or not.

    Raises:
        ConfigurationError: there is no such disk any more.
        CatalogError: the catalogue cannot be used.
    """
    with context.catalog.read() as session:
        disk = session.get(HeadStartDisk, disk_id)
        if disk is None:
            raise ConfigurationError("the disk is no longer there")
        return view_of_disk(context, session, session.get_one(HeadStartJob, disk.job_id), disk)


def bring_to(context: AgentContext, disk_id: int, point: Point, progress: Progress) -> DiskView:
    """Roll a disk that is held on to a point, whatever its lag.

    Args:
        context: surroundings of this process.
        disk_id: the disk.
        point: a point at or after the one where it stands.
        progress: told how many stored bytes of an image are done.

    Returns:
        The disk, which stands exactly there.

    Raises:
        MissingPointError: no verified images lead there.
        RollforwardError: as `RollingDisk.apply` does.

    Crash: the disk's cursor says what may be on it, and its claims last: the agent goes on as the lag says.
    """
    for _ in range(_TURNS_MAX):
        view = sent_to(look_at_disk(context, disk_id), point)
        if view.plan.goal is None:
            return view
        with context.catalog.write() as session:
            disk, chain = lock_disk(session, disk_id), view.chain
            row = None if chain is None else session.get(Chain, chain.id)
            if disk is None or chain is None or row is None:
                raise ConfigurationError("the disk, or its chain, is no longer there", path=str(view.path))
            if row.revision != chain.revision:
                continue
            mirror_disk(context, session, view, disk, row)
            if not claim_for(session, view, disk, row) or not claim_images(context, session, view, disk, row):
                continue
        rolled = bring_to_goal(context.seal, view, how_many(view), progress, context.stopping.is_set)
        with context.catalog.write() as session:
            disk = lock_disk(session, disk_id)
            if disk is not None:
                note_rolled(context, session, view, disk, rolled)
    raise BusyError("the chain changes all the time", path=str(view.path))


def finalize_disk(context: AgentContext, view: DiskView, point: Point) -> None:
    """Make a disk that is held, and stands at a point, one that any program opens.

    Args:
        context: surroundings of this process.
        view: the disk.
        point: where it stands.

    Raises:
        RollforwardError: as `RollingDisk.finalize` does.

    Crash: no disk, or the whole disk; finalizing again goes on.
    """

    def patches(disk: RollingDisk) -> list[Part]:
        return patches_of(view, disk, point, key_of(context.seal, view))

    finalize_at(view.path, point, patches=patches, keeps_end=True, side_folder=view.side_folder)
    if view.side_folder is not None:
        look_anew(view.path)
    with context.catalog.write() as session:
        row = lock_disk(session, view.disk.id)
        if row is not None:
            record_end(context, session, view, row, point)


def is_ending(view: DiskView) -> bool:
    """Tell whether finalizing a disk was begun before, or ended: nothing is left but to go on with that."""
    return view.standing is not None and view.standing.phase in (Phase.FINALIZING, Phase.FINALIZED)


def copy_disk(
    context: AgentContext,
    view: DiskView,
    point: Point,
    target: Path,
    progress: Progress,
    copying: Callable[[], None],
) -> None:
    """Make a finalized copy of a disk that is held and stands at a point; the disk is rolled on later.

    Args:
        context: surroundings of this process.
        view: the disk.
        point: where it stands.
        target: where the copy is to be.
        progress: told how many bytes are copied, of how many.
        copying: told before anything is copied because blocks cannot be shared.

    Raises:
        RollforwardError: as `RollingDisk.copy_at` does.

    Crash: the disk as it was; a copy that is no disk, which copying again replaces.
    """
    with RollingDisk.open(view.path, side_folder=view.side_folder) as disk:
        patches = patches_of(view, disk, point, key_of(context.seal, view))
        is_whole = disk.copy_at(
            point,
            target,
            patches=patches,
            progress=progress,
            stopping=context.stopping.is_set,
            copying=copying,
        )
    if not is_whole:
        raise RestoreError("was stopped before the copy was whole", path=str(target))
    _note(context, view, f"copied as it was at point {point.number}, and finalized: {target}")


def refuse_child(view: DiskView, child: Path) -> None:
    """Make sure, before anything is done, that a child of a disk can be made.

    Args:
        view: the disk.
        child: where the child is to be.

    Raises:
        ConfigurationError: the name is taken, or is none for it; qemu's tools are not there; or it is a device.
    """
    kind = DiskKind(view.job.disk_kind)
    if kind is DiskKind.DEVICE:
        raise ConfigurationError("is a device, which cannot be lent", path=str(view.path))
    QcowChild(child, view.path, kind)
    if os.path.lexists(child):
        raise ConfigurationError("exists already", path=str(child))


def lend_disk(context: AgentContext, view: DiskView, point: Point, child: Path) -> None:
    """Lend a disk that is held and stands at a point: it is not rolled on until it is taken back.

    Args:
        context: surroundings of this process.
        view: the disk.
        point: where it stands.
        child: what reads it, and is written to in its stead, is to be there.

    Raises:
        RollforwardError: as `RollingDisk.lend_at` does.

    Crash: no disk, or the whole disk; taking it back makes it what it was.
    """
    with RollingDisk.open(view.path) as disk:
        patches = patches_of(view, disk, point, key_of(context.seal, view))
        disk.lend_at(point, QcowChild(child, view.path, disk.standing.kind, patches))
    words = f"lent as it was at point {point.number}, under {child}"
    _note(context, view, words, EventKind.LENT)
    _mirror(context, view.disk.id)


def finish_lending(view: DiskView, child: Path) -> bool:
    """Give a child its name, if its disk was lent to it and only that was left to do; tell whether it has it."""
    standing = view.standing
    if standing is None or standing.phase is not Phase.LENT or standing.loan is None:
        return False
    made = QcowChild(child, view.path, standing.kind)
    if standing.loan.child != str(child) or os.path.lexists(child) or not made.is_made:
        return False
    made.publish()
    return True


def take_disk_back(context: AgentContext, view: DiskView) -> Path:
    """Take back a disk that is held and lent.

    Returns:
        What read it: worthless from now on.

    Raises:
        RollforwardError: as `hsr.rolling.lending.take_back` does.

    Crash: the whole disk, or no disk; taking it back again goes on.
    """
    child = Path(take_back(view.path).child)
    with suppress(RestoreError):  # nobody takes it for a child; the disk is back whatever became of it
        discard_partial(child, view.path)
    _note(context, view, f"taken back from {child}", EventKind.TAKEN_BACK)
    _mirror(context, view.disk.id)
    return child


def remove_child(view: DiskView, child: Path) -> bool:
    """Remove what read a disk; tell whether it was there.

    Raises:
        ConfigurationError: it is something else by now.
        RestoreError: the file system refuses.
    """
    if not os.path.lexists(child):
        return False
    if not is_child_of(child, view.path):
        raise ConfigurationError("is no child of this disk; it is left as it is", path=str(child))
    try:
        child.unlink()
    except OSError as error:
        raise RestoreError(error.strerror or str(error), path=str(child)) from error
    return True


def _mirror(context: AgentContext, disk_id: int) -> None:
    """Record how a disk stands now."""
    view = look_at_disk(context, disk_id)
    with context.catalog.write() as session:
        disk = lock_disk(session, disk_id)
        if disk is not None:
            chain = None if view.chain is None else session.get(Chain, view.chain.id)
            mirror_disk(context, session, view, disk, chain)


def begin_anew(context: AgentContext, view: DiskView) -> Path | None:
    """Give up what a disk that is held holds, files and all: it is built anew from the newest base.

    Returns:
        As `discard_files`.

    Raises:
        RollforwardError: as `discard_files` does.

    Crash: the disk, or parts of it; the same again goes on.
    """
    aside = discard_files(view)
    words = "given up, and built anew" if aside is None else f"set aside in {aside}, and built anew"
    with context.catalog.write() as session:
        disk = lock_disk(session, view.disk.id)
        if disk is None:
            return aside
        forget_disk(session, view, disk)
        context.note(session, EventKind.STARTED, view.title, words, folder_id=view.folder.id)
    return aside


def forget_disk(session: Session, view: DiskView, disk: HeadStartDisk) -> None:
    """Have the catalogue know nothing of a disk any more: it is to be built anew.

    Args:
        session: of a write transaction.
        view: the disk.
        disk: its row, locked.
    """
    release_disk(session, view.job, disk, now=view.now)
    disk.state, disk.reason, disk.due_since = DiskState.EMPTY, "to be built anew", None
    disk.cursor, disk.target, disk.newest, disk.capacity_bytes = [], None, None, None
    disk.is_begun, disk.chain_id, disk.base_number, disk.tried = False, None, None, ""
    disk.next_due_at = AT_ONCE


def start_over(view: DiskView) -> None:
    """Forget what a disk that is held holds, so that it can be built at an earlier point.

    Raises:
        RollforwardError: as `RollingDisk.start_over` does.

    Crash: the disk as it was, or one that has to be built: the agent does.
    """
    if view.standing is not None:
        with RollingDisk.open(view.path, side_folder=view.side_folder) as disk:
            disk.start_over()


def discard_files(view: DiskView) -> Path | None:
    """Remove the files of a disk that is not finalized; if its cursor is damaged, set them aside.

    A finalized disk stays where it is, and only what says so is removed; a device stays as it is, too.

    Returns:
        The folder in which they were set aside; None if they were removed, or there are none.

    Raises:
        RollforwardError: as `hsr.rolling.disk.discard` and `set_damaged_aside` do.

    Crash: the disk, or parts of it; the same again goes on.
    """
    place = Path(view.location.path)
    if view.location.kind is LocationKind.SMB:
        refuse_unmounted(place)
    if not place.is_dir():
        raise RestoreError(
            "the folder of the location is not there",
            path=str(place),
            hint="Mount or attach it. `hsr delete` without --with-disk forgets the job, and leaves the disk.",
        )
    try:
        standing = read_standing(view.path, side_folder=view.side_folder)
    except FormatError:
        return set_damaged_aside(view.path, DiskKind(view.job.disk_kind), side_folder=view.side_folder)
    is_ours = standing is not None and standing.job_uid.hex() == view.job.uid
    if standing is not None and standing.phase is Phase.FINALIZED:
        if is_ours:
            forget_end(view.path, side_folder=view.side_folder)
    elif standing is not None:
        if not is_ours:
            raise ConfigurationError("belongs to another job", path=str(view.path))
        discard(view.path, side_folder=view.side_folder)
    return None


def _note(context: AgentContext, view: DiskView, text: str, kind: EventKind = EventKind.FINALIZED) -> None:
    with context.catalog.write() as session:
        context.note(
            session,
            kind,
            view.title,
            text,
            folder_id=view.folder.id,
            chain_id=view.disk.chain_id,
        )
