"""How the agent and its folders stand, gathered in a moment: few rows a folder, and no waiting for one that hangs."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from ops.headstart_screen import DiskLine, job_views
from ops.observe.health import LOOKOUT_SILENCE, WORKER_SILENCE, judge_pulse
from ops.observe.pulse import LOOKOUT, WORKER, last_beat
from ops.observe.space import Space, measure_all
from ops.state_dir import clock_of_running_agent
from policies.names import parse_image_name
from storage.catalog.folder_order import in_order
from storage.catalog.freezes import stored_freezes
from storage.catalog.letters import count_waiting
from storage.catalog.memory_models import Notice
from storage.catalog.models import Chain, Folder, FolderTally, Image, ImageState
from storage.catalog.standing import (
    VolumeStanding,
    WorkCounts,
    count_chains_due,
    open_troubles,
    running_work,
    volumes,
    work_counts,
)
from storage.catalog.status import FolderCounts, Tally, total_counts

if TYPE_CHECKING:
    from ops.catalogue_access import Desk

_PATIENCE_S: Final = 0.15
"""So long folders are asked how much is free, and as long which machine their images come from."""

_LISTED_MAX: Final = 20
"""So many troubles and pieces of work are named."""

_GONE: Final = (ImageState.MISSING, ImageState.ASIDE)


class _Row(NamedTuple):
    folder_id: int
    path: str
    problem: str | None
    description: str
    newest_at: datetime | None


@dataclass(frozen=True, slots=True)
class AgentStanding:
    """The agent.

    Attributes:
        is_running: whether it runs on this machine, on this state directory.
        wrong: what is wrong with its processes, in words.
        state_dir: its directory.
        now: calendar time.
    """

    is_running: bool
    wrong: tuple[str, ...]
    state_dir: str
    now: datetime


@dataclass(frozen=True, slots=True)
class FolderStanding:
    """A folder.

    Attributes:
        path: where it is.
        problem: why it cannot be read, or its ledger cannot be used; None if all is well.
        description: a person's words on it.
        counts: images by state; there and not there.
        space: its device; None if it did not answer in time.
        computer: the machine that its images come from; None if unknown.
        volumes: its volumes.
        newest_at: when an image last landed in it; None if none ever did.
    """

    path: str
    problem: str | None
    description: str
    counts: Mapping[ImageState, Tally]
    space: Space | None
    computer: str | None
    volumes: tuple[VolumeStanding, ...]
    newest_at: datetime | None

    @property
    def present(self) -> Tally:
        """The images that are there."""
        return sum((tally for state, tally in self.counts.items() if state not in _GONE), Tally())


@dataclass(frozen=True, slots=True)
class Freeze:
    """A reason for which nothing is removed: where, since when, why, and how it ends."""

    place: str
    since: datetime
    reason: str
    ends: str


@dataclass(frozen=True, slots=True)
class Standing:
    """All of it.

    Attributes:
        agent: the agent.
        folders: those that were asked for, in trouble first.
        folders_in_all: how many there are.
        total: images of all folders.
        work: attempts by kind of work, as a word.
        running: work under way, in words, and since when.
        chains_due: chains for which something may be due.
        chains_waiting: chains in which something cannot be done.
        troubles: what people were told of, the oldest first.
        troubles_in_all: how many there are.
        freezes: why nothing is removed.
        letters_waiting: letters that have not arrived.
        disks: disks that are kept rolled forward.
    """

    agent: AgentStanding
    folders: tuple[FolderStanding, ...]
    folders_in_all: int
    total: FolderCounts
    work: Mapping[str, WorkCounts]
    running: tuple[tuple[str, str, datetime], ...]
    chains_due: int
    chains_waiting: int
    troubles: tuple[Notice, ...]
    troubles_in_all: int
    freezes: tuple[Freeze, ...]
    letters_waiting: int
    disks: tuple[DiskLine, ...] = ()


def gather_standing(desk: Desk, machine_now: datetime, *, folders_max: int | None) -> Standing:
    """Gather how things stand.

    Args:
        desk: the catalogue and the clock.
        machine_now: real time.
        folders_max: so many folders at most; None for all.

    Raises:
        CatalogError: the catalogue cannot be read.
    """
    now = desk.clock()
    with desk.catalog.read() as session:
        troubles = open_troubles(session, limit=_LISTED_MAX)
        return Standing(
            agent=_agent(desk, machine_now, now),
            folders=_folders(session, folders_max),
            folders_in_all=_count(session, select(func.count()).select_from(Folder)),
            total=total_counts(session),
            work={kind.value: counts for kind, counts in work_counts(session).items()},
            running=tuple(
                (one.kind.value, one.title or one.subject, one.started_at)
                for one in running_work(session, limit=_LISTED_MAX)
            ),
            chains_due=count_chains_due(session, now),
            chains_waiting=_count(
                session, select(func.count()).select_from(Chain).where(Chain.waits_for.is_not(None))
            ),
            troubles=tuple(troubles),
            troubles_in_all=_count(
                session, select(func.count()).select_from(Notice).where(Notice.is_open.is_(True))
            ),
            freezes=_freezes(session, now),
            letters_waiting=count_waiting(session),
            disks=tuple(job_views(session, now)),
        )


def _agent(desk: Desk, machine_now: datetime, now: datetime) -> AgentStanding:
    state_dir = desk.settings.state_dir
    is_running = clock_of_running_agent(state_dir) is not None
    found = (
        judge_pulse("lookout", last_beat(state_dir, LOOKOUT), LOOKOUT_SILENCE, machine_now),
        judge_pulse("worker", last_beat(state_dir, WORKER), WORKER_SILENCE, machine_now),
    )
    wrong = tuple(words for words in found if words is not None) if is_running else ()
    return AgentStanding(is_running, wrong, str(state_dir), now)


def _folders(session: Session, folders_max: int | None) -> tuple[FolderStanding, ...]:
    """Return the folders, those in trouble first, then the most important ones."""
    problem = func.coalesce(Folder.problem, Folder.ledger_problem)
    query = (
        select(Folder.id, Folder.path, problem, Folder.description, Folder.newest_image_at)
        .order_by(problem.is_(None), *in_order())
        .limit(folders_max)
    )
    rows = [_Row(*row) for row in session.execute(query)]
    ids = None if folders_max is None else [row.folder_id for row in rows]
    counts = _counts(session, ids)
    by_folder: dict[int, list[VolumeStanding]] = {}
    for volume in volumes(session, ids):
        by_folder.setdefault(volume.folder_id, []).append(volume)
    spaces = measure_all((row.path for row in rows if row.problem is None), _PATIENCE_S)
    computers = _computers(session, rows) if ids is not None else {}
    return tuple(
        FolderStanding(
            row.path,
            row.problem,
            row.description,
            counts.get(row.folder_id, {}),
            spaces.get(row.path),
            computers.get(row.path),
            tuple(by_folder.get(row.folder_id, ())),
            row.newest_at,
        )
        for row in rows
    )


def _counts(session: Session, ids: Sequence[int] | None) -> dict[int, dict[ImageState, Tally]]:
    query = select(
        FolderTally.folder_id, FolderTally.state, FolderTally.images, FolderTally.stored_bytes
    ).where(FolderTally.images > 0)
    if ids is not None:
        query = query.where(FolderTally.folder_id.in_(ids))
    found: dict[int, dict[ImageState, Tally]] = {}
    for folder_id, state, images, stored_bytes in session.execute(query):
        states = found.setdefault(folder_id, {})
        states[state] = states.get(state, Tally()) + Tally(images, stored_bytes)
    return found


def _computers(session: Session, rows: Iterable[_Row]) -> dict[str, str]:
    """Read from one base of each folder which machine it comes from, as far as that is quick."""
    bases = []
    for row in rows:
        query = select(Image.name).where(
            Image.folder_id == row.folder_id, Image.state == ImageState.GOOD, Image.name.like("%.spf")
        )
        name = session.scalar(query.order_by(Image.id.desc()).limit(1)) if row.problem is None else None
        if name is not None:
            bases.append((row.path, name))
    found: dict[str, str] = {}
    is_over = threading.Event()

    def look() -> None:
        from storage.folder import look_at

        for path, text in bases:
            name = parse_image_name(text)
            if is_over.is_set() or name is None:
                return
            header = look_at(Path(path) / text, name).header
            computer = None if header is None or header.encrypted else header.metadata.get("computer")
            if isinstance(computer, str) and computer:
                found[path] = computer

    if bases:
        thread = threading.Thread(target=look, name="computers", daemon=True)
        thread.start()
        thread.join(_PATIENCE_S)
        is_over.set()
    return dict(found)


def _freezes(session: Session, now: datetime) -> tuple[Freeze, ...]:
    found = []
    for one in stored_freezes(session)[:_LISTED_MAX]:
        if one.ends_at is not None and one.ends_at <= now:
            continue
        folder = session.get(Folder, one.folder_id) if one.folder_id is not None else None
        chain = session.get(Chain, one.chain_id) if one.chain_id is not None else None
        place = folder.path if folder is not None else "all folders"
        if chain is not None:
            place += f", {chain.volume}, chain b{chain.base_number:03}"
        found.append(Freeze(place, one.since, one.reason, one.ends))
    return tuple(found)


def _count(session: Session, query: Select[int]) -> int:
    return session.scalar(query) or 0
