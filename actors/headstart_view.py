"""A HeadStart disk, all that is known of it, and its plan: what is loaded before anything is done."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from actors.chain_view import may_be_worked_in
from actors.context import AgentContext
from actors.patience import patiently
from hsr.disks.form import DiskKind
from hsr.disks.medium import LocalMedium, refusals
from hsr.disks.shares import refuse_unmounted
from hsr.disks.side_files import SIDE_NAME, SidePaths
from hsr.rolling.cursor_file import Phase, Standing
from hsr.rolling.disk import read_standing
from policies.cursor import Cursor, roll_on_path
from policies.errors import FormatError, MissingPointError, RollforwardError, StorageError
from policies.headstart import DiskFacts, DiskPlan, DiskState, plan_disk
from policies.holdings import Holding
from policies.points import Point
from storage.catalog.facts import holding_of
from storage.catalog.headstart import chain_of_disk, is_held, later_base
from storage.catalog.headstart_models import HeadStartDisk, HeadStartJob, JobState, Location, LocationKind
from storage.catalog.locations import disk_path
from storage.catalog.models import Chain, Folder, Image


@dataclass(frozen=True, slots=True)
class DiskView:
    """A disk at one moment.

    Attributes:
        job: its job.
        disk: its row.
        location: where it lies.
        folder: whose images are applied.
        chain: whose points it holds, or is to hold; None while none is there.
        holdings: the chain's images.
        standing: what its cursor file says; None if there is none.
        plan: what is to be done with it.
        now: the moment (calendar).
    """

    job: HeadStartJob
    disk: HeadStartDisk
    location: Location
    folder: Folder
    chain: Chain | None
    holdings: tuple[Holding, ...]
    standing: Standing | None
    plan: DiskPlan
    now: datetime

    @property
    def path(self) -> Path:
        """Where its file is, or is to be."""
        return disk_path(self.location, self.job, self.disk)

    @property
    def side_folder(self) -> Path | None:
        """Where its side files are, if that is not beside it."""
        return side_folder_of(self.location, self.job)

    @property
    def title(self) -> str:
        """Which disk it is, for people."""
        return disk_title(self.job, self.disk)

    @property
    def cursor(self) -> Cursor:
        """Where it stands."""
        return Cursor.blank() if self.standing is None else self.standing.cursor

    @property
    def digest(self) -> str:
        """Names what is to be done: with another way to go it is new work."""
        way = hashlib.sha256(f"{self.disk.file_name} {self.location.path} {self.job.password}".encode())
        for span in self.plan.path:
            way.update(
                f"{span.name} {span.stored_bytes} {span.end.id.hex()}".encode(errors="surrogateescape")
            )
        return way.hexdigest()[:32]


def side_folder_of(location: Location, job: HeadStartJob) -> Path | None:
    """Return where the side files of a job's device are: at its location; None if its disks are files."""
    is_device = job.disk_kind == DiskKind.DEVICE
    return Path(location.path) / job.subfolder / SIDE_NAME if is_device else None


def disk_title(job: HeadStartJob, disk: HeadStartDisk) -> str:
    """Say which disk it is: its volume and its job."""
    return f"{disk.volume} of {job.name}"


def load_disk(context: AgentContext, disk_id: int) -> DiskView | None:
    """Load a disk that may have something due, and plan it.

    Args:
        context: surroundings.
        disk_id: the disk.

    Returns:
        The disk and its plan; None if nothing is to be done with it now, whoever asks.

    Raises:
        CatalogError: the catalogue cannot be used.
    """
    with context.catalog.read() as session:
        disk = session.get(HeadStartDisk, disk_id)
        job = None if disk is None else session.get(HeadStartJob, disk.job_id)
        if disk is None or job is None or not _may_go_on(disk, context):
            return None
        view = view_of_disk(context, session, job, disk)
        return view if job.state is JobState.ENABLED else _resting(view)


def _resting(view: DiskView) -> DiskView:
    """Plan nothing for a disk whose job is paused: it is looked at, so that what it needs is known."""
    plan = view.plan
    if plan.state is DiskState.FINALIZED:
        return view
    words = "" if plan.state in (DiskState.UP_TO_DATE, DiskState.WAITING) else plan.state.value
    reason = f"{words}, {plan.reason}" if words and plan.reason else words
    return replace(view, plan=replace(plan, state=DiskState.PAUSED, reason=reason, goal=None, path=()))


def _may_go_on(disk: HeadStartDisk, context: AgentContext) -> bool:
    if disk.state is DiskState.FINALIZED:
        return False
    return disk.next_due_at <= context.clock() and not is_held(disk, context.machine_clock())


def view_of_disk(context: AgentContext, session: Session, job: HeadStartJob, disk: HeadStartDisk) -> DiskView:
    """Gather all that is known of a disk, its cursor file read, and plan it.

    Args:
        context: surroundings.
        session: any session.
        job: its job.
        disk: the disk.
    """
    now = context.clock()
    location, folder = session.get_one(Location, job.location_id), session.get_one(Folder, job.folder_id)
    chain = chain_of_disk(session, job, disk)
    holdings = () if chain is None else holdings_of(session, chain)
    standing: Standing | None = None
    plan = _plan_without_place(folder)
    if plan is None:
        found = _look(context, location, job, disk_path(location, job, disk))
        standing, plan = (found, None) if not isinstance(found, DiskPlan) else (None, found)
    if standing is not None and standing.job_uid.hex() != job.uid:
        where = disk_path(location, job, disk)
        standing, plan = None, DiskPlan(DiskState.STOPPED, f"{where} belongs to another job")
    if standing is not None and (chain is None or standing.chain_id != chain.chain_uid):
        chain = _chain_of_uid(session, job, disk, standing.chain_id) or chain
        holdings = () if chain is None else holdings_of(session, chain)
    view = DiskView(job, disk, location, folder, chain, holdings, standing, DiskPlan(DiskState.EMPTY), now)
    plan = plan or _plan(session, view)
    return replace(view, plan=plan)


def sent_to(view: DiskView, point: Point) -> DiskView:
    """Plan a disk anew: a person wants it at a point, whatever the lag.

    Args:
        view: the disk.
        point: where it is to be.

    Returns:
        The disk with its way there; with no goal, if it stands there already.

    Raises:
        MissingPointError: no verified images lead there from where it stands.
    """
    cursor = view.cursor
    if cursor.is_closed and cursor.points[0].id == point.id:
        return replace(view, plan=replace(view.plan, goal=None, path=()))
    spans = [one.span for one in view.holdings if one.is_proven]
    if not cursor.is_blank:
        spans = [span for span in spans if not span.is_base]
    path = roll_on_path(cursor, spans, point.id)
    if path is None:
        raise MissingPointError(
            f"no verified images lead to point {point.number} from where the disk stands",
            path=str(view.path),
            hint="`rollforward hsr show` says where it stands; --fresh builds it anew.",
        )
    state = DiskState.BUILDING if cursor.is_blank else DiskState.ROLLING
    plan = replace(view.plan, state=state, reason=f"to point {point.number}", goal=point, path=path)
    return replace(view, plan=plan)


def facts_of(view: DiskView) -> DiskFacts:
    """Give all that the planner takes of a disk."""
    standing = view.standing
    return DiskFacts(
        cursor=view.cursor,
        holdings=view.holdings,
        lag=timedelta(seconds=view.job.lag_s),
        capacity_bytes=None if standing is None else standing.place.room_bytes,
        building=None if standing is None or standing.goal is None else standing.goal.id,
    )


def _plan(session: Session, view: DiskView) -> DiskPlan:
    plan = _obstacle(view) or _plan_along(session, view)
    if view.standing is None or view.standing.loan is None:
        return plan
    return replace(plan, state=DiskState.LENT, reason=_words_of_loan(view), goal=None, path=())


def _words_of_loan(view: DiskView) -> str:
    """Say to whom a disk is lent, and how it is taken back."""
    standing = view.standing
    if standing is None or standing.loan is None:
        return ""
    was = {Phase.LENDING: "; lending it was interrupted", Phase.RETURNING: "; taking it back was interrupted"}
    how = f"rollforward hsr resume {view.job.name} --volume {view.disk.volume}"
    return f"to {standing.loan.child}{was.get(standing.phase, '')}; it is taken back by: {how}"


def _plan_along(session: Session, view: DiskView) -> DiskPlan:
    """Plan a disk along its chain."""
    if view.chain is None:
        return DiskPlan(DiskState.EMPTY, f"no verified base of {view.disk.volume} is in {view.folder.path}")
    plan = plan_disk(facts_of(view), view.now)
    if plan.state in (DiskState.UP_TO_DATE, DiskState.STOPPED):
        later = later_base(session, view.job, view.disk)
        if later is not None and not view.cursor.is_blank:
            why = f" ({plan.reason})" if plan.reason else ""
            reason = f"the volume began anew with base b{later:03d}{why}"
            return replace(plan, state=DiskState.NEEDS_FRESH, reason=reason)
    return plan


def _obstacle(view: DiskView) -> DiskPlan | None:
    """Say what stands in the way of a disk whatever its chain holds."""
    standing, disk = view.standing, view.disk
    if standing is None:
        if not disk.is_begun and view.side_folder is None:
            return None
        reason = f"{view.path} is not there, or is no disk that is rolled forward"
        if view.side_folder is not None:
            anew = f"rollforward hsr enable {view.job.name} --fresh"
            reason = f"nothing in {view.side_folder} tells of {view.path}: {anew}"
        return DiskPlan(DiskState.STOPPED, reason, target=view.cursor.hi)
    if standing.phase is Phase.FINALIZED:
        return DiskPlan(DiskState.FINALIZED, f"at point {standing.cursor.points[0].number}")
    if standing.phase is Phase.FINALIZING:
        return DiskPlan(DiskState.STOPPED, "finalizing it was interrupted: finalize it again")
    if view.chain is None or standing.chain_id != view.chain.chain_uid:
        return DiskPlan(DiskState.STOPPED, "the chain that it stands on is not in the folder")
    return None


def _plan_without_place(folder: Folder) -> DiskPlan | None:
    if may_be_worked_in(folder):
        return None
    return DiskPlan(DiskState.STOPPED, f"{folder.path}: {folder.problem or 'it has not been scanned yet'}")


def _look(
    context: AgentContext, location: Location, job: HeadStartJob, path: Path
) -> Standing | DiskPlan | None:
    """Read the cursor file of a disk; give a plan that says so if its location is out of reach."""

    def look(_: object) -> Standing | None:
        place = Path(location.path)
        with refusals(place):
            if not place.is_dir():
                raise StorageError("is not there", path=location.path)
        if location.kind is LocationKind.SMB:  # what lies below a share that is not mounted is another disk
            refuse_unmounted(place)
        return _standing_of(path, side_folder_of(location, job), job)

    try:
        return patiently(location.path, context.pace.silence.total_seconds(), look)
    except FormatError as error:
        return DiskPlan(DiskState.NEEDS_FRESH, f"{error}: rollforward hsr enable {job.name} --fresh")
    except (RollforwardError, OSError) as error:
        return DiskPlan(DiskState.STOPPED, f"location {location.name!r}: {error}")


def _standing_of(path: Path, side_folder: Path | None, job: HeadStartJob) -> Standing | None:
    """Read the cursor file of a disk that is within reach; None if there is none, or only that of a disk before it.

    Raises:
        FormatError: it is damaged.
        RestoreError: the medium refuses.
        StorageError: what it says cannot be.
    """
    found, medium = read_standing(path, side_folder=side_folder), LocalMedium()
    is_over = found is not None and found.phase is Phase.FINALIZED
    if found is not None and is_over:
        if found.job_uid.hex() != job.uid:
            found, is_over = None, False  # another job left a disk here
        elif medium.exists(
            (SidePaths(side_folder, path.name) if side_folder else SidePaths.beside(path)).map
        ):
            raise StorageError(
                "is said to be finalized, beside the map of an unfinished disk", path=str(path)
            )
    if side_folder is not None:
        if found is not None and not is_over and not path.is_block_device():
            raise StorageError("is not attached", path=str(path))
    elif found is None and medium.exists(path):
        raise StorageError("is there, but is no disk that is rolled forward", path=str(path))
    return found


def holdings_of(session: Session, chain: Chain) -> tuple[Holding, ...]:
    """Return the images of a chain."""
    images = session.scalars(select(Image).where(Image.chain_id == chain.id).order_by(Image.name))
    return tuple(one for one in map(holding_of, images) if one is not None)


def _chain_of_uid(session: Session, job: HeadStartJob, disk: HeadStartDisk, uid: bytes) -> Chain | None:
    query = select(Chain).where(
        Chain.folder_id == job.folder_id, Chain.volume == disk.volume, Chain.chain_uid == uid
    )
    return session.scalar(query.order_by(Chain.base_number).limit(1))


def image_paths(view: DiskView) -> Mapping[str, Path]:
    """Return where the images of the plan's way lie, by name, in its order."""
    return {span.name: Path(view.folder.path) / span.name for span in view.plan.path}
