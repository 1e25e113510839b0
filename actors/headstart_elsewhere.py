"""A disk of a point that is built from its base beside a job's own, which is left as it is: for a copy of any point."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from actors.context import AgentContext
from actors.headstart import claim_images, end_work
from actors.headstart_disk import is_same_place, key_for, key_of, patches_of, place_of, refuse_wrapped_disk
from actors.headstart_view import DiskView
from actors.patience import patiently
from hsr.disks.form import DiskKind, Part
from hsr.rolling.cursor_file import Phase
from hsr.rolling.disk import RollingDisk, discard, finalize_at, read_standing
from policies.cursor import Cursor, roll_on_path
from policies.errors import BusyError, ConfigurationError, MissingPointError, StorageError
from policies.points import Point, Span
from storage.catalog.headstart import jobs_with_disks, lock_disk
from storage.catalog.locations import disk_path
from storage.catalog.models import Chain, EventKind
from storage.pipeline import Progress


def refuse_kept(context: AgentContext, target: Path) -> None:
    """Make sure that a copy, or a child, takes no place where a job keeps a disk, or is to keep one.

    Args:
        context: surroundings of this process.
        target: where it is to be.

    Raises:
        ConfigurationError: it would.
    """
    with context.catalog.read() as session:
        kept = [
            (job.name, disk_path(location, job, disk), location.path)
            for job, disk, location, _ in jobs_with_disks(session)
        ]
    silence_s = context.pace.silence.total_seconds()
    for name, path, place in kept:
        if path.name.casefold() == target.name.casefold() and _is_same(place, path, target, silence_s):
            raise ConfigurationError(
                f"is where job {name!r} keeps a disk", path=str(target), hint="Choose another name."
            )


def _is_same(place: str, path: Path, target: Path, silence_s: float) -> bool:
    """Tell whether a disk at a location is what is meant; a location that does not answer has no part in this."""
    try:
        return path == target or patiently(place, silence_s, lambda _: is_same_place(path, target))
    except StorageError:
        return False


def build_elsewhere(
    context: AgentContext, view: DiskView, point: Point, target: Path, progress: Progress
) -> None:
    """Build a disk of a point from its base, in another place, and finalize it; the job's disk is left as it is.

    Args:
        context: surroundings of this process.
        view: the job's disk, held.
        point: the point.
        target: a name that nothing bears, or that of such a build that was interrupted; see `refuse_kept`.
        progress: told how many stored bytes are done.

    Raises:
        ConfigurationError: something else has the name, or a build at another point that is just to be finalized.
        MissingPointError: no verified images lead there.
        RollforwardError: as `RollingDisk.apply` and `finalize_at` do.

    Crash: a disk that is not finalized, or the whole disk; as long as a cursor lies beside it, the same again goes on.
    """
    if not _is_built(view, point, target) and not _build(context, view, point, target, progress):
        return

    def patches(disk: RollingDisk) -> list[Part]:
        return patches_of(view, disk, point, key_of(context.seal, view))

    finalize_at(target, point, patches=patches)
    with context.catalog.write() as session:
        context.note(
            session,
            EventKind.FINALIZED,
            view.title,
            f"built anew at point {point.number}, and finalized: {target}",
            folder_id=view.folder.id,
            chain_id=view.disk.chain_id,
        )


def _is_built(view: DiskView, point: Point, target: Path) -> bool:
    """Tell whether an interrupted build needs nothing but finalizing; refuse what is none of this job's."""
    before = read_standing(target)
    if before is None or before.phase is Phase.FINALIZED:
        return False  # what bears the name is refused when one is begun
    is_ours = view.chain is not None and (before.job_uid.hex(), before.chain_id, before.kind) == (
        view.job.uid,
        view.chain.chain_uid,
        _kind_of(view),
    )
    if is_ours and before.phase in (Phase.NEW, Phase.BUILDING):
        return False
    is_done = is_ours and before.cursor.is_closed and before.phase in (Phase.ROLLING, Phase.FINALIZING)
    if is_done and before.cursor.points == (point,):
        return True
    hint = "Choose another name."
    if is_done:
        number = before.cursor.points[0].number
        hint = f"It was built at point {number}, and not finalized: say --point {number}, or choose another name."
    raise ConfigurationError("exists already", path=str(target), hint=hint)


def _build(context: AgentContext, view: DiskView, point: Point, target: Path, progress: Progress) -> bool:
    """Build a disk, or go on with that; tell whether it stands at its point now, and was not stopped before."""
    path = way_from_nothing(view, point)
    if view.chain is None:
        raise ConfigurationError("no chain to build from is there", path=view.folder.path)
    images = [Path(view.folder.path) / span.name for span in path]
    key = key_for(context.seal, view.job, images)
    refuse_wrapped_disk(view, images, key)
    # All images of the way count as one build, wherever the job's own disk stands.
    fresh = replace(view, standing=None, plan=replace(view.plan, goal=point, path=path))
    with context.catalog.write() as session:
        disk, chain = lock_disk(session, view.disk.id), session.get(Chain, view.chain.id)
        if disk is None or chain is None or not claim_images(context, session, fresh, disk, chain):
            raise BusyError("an image on the way is just being removed: try again", path=view.folder.path)
    try:
        with _begun_at(view, view.chain, point, target) as made:
            rolled = made.apply(images, key=key, progress=progress, stopping=context.stopping.is_set)
    finally:
        with context.catalog.write() as session:
            disk = lock_disk(session, view.disk.id)
            if disk is not None:
                end_work(session, view, disk)
    return not rolled.is_stopped


def way_from_nothing(view: DiskView, point: Point) -> tuple[Span, ...]:
    """Return the images that lead to a point from a base.

    Raises:
        MissingPointError: none do.
    """
    spans = [one.span for one in view.holdings if one.is_proven]
    path = roll_on_path(Cursor.blank(), spans, point.id)
    if path is None:
        raise MissingPointError(f"no verified images lead to point {point.number}", path=view.folder.path)
    return path


def _begun_at(view: DiskView, chain: Chain, point: Point, target: Path) -> RollingDisk:
    """Open what was begun of a disk at a point, or begin it; one that was begun for another size makes room."""
    place = place_of(view.job, point.volume_bytes)
    before = read_standing(target)
    if before is not None and before.phase is not Phase.FINALIZED:
        if before.place == place:
            return RollingDisk.open(target)
        discard(target)
    return RollingDisk.begin(
        target, _kind_of(view), place, job_uid=bytes.fromhex(view.job.uid), chain_id=chain.chain_uid
    )


def _kind_of(view: DiskView) -> DiskKind:
    """Return what a disk elsewhere is: what the job's own is, or a file in place of a device."""
    kind = DiskKind(view.job.disk_kind)
    return DiskKind.RAW if kind is DiskKind.DEVICE else kind
