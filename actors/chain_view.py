"""A chain, all that is known of it, and its plan: what is loaded before anything is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from actors.context import AgentContext
from actors.listing import list_images
from policies.chain_facts import ChainFacts
from policies.folder_policy import FolderPolicy
from policies.freezing import Freeze, FreezeKind, judge_sizes, judge_vanished
from policies.holdings import Whereabouts
from policies.lifecycle import ChainPlan, plan_chain
from policies.names import parse_image_name
from storage.catalog.agents import agent_policy
from storage.catalog.facts import chain_facts, gone_images
from storage.catalog.folders import folder_policy
from storage.catalog.freezes import Scope, set_freezes
from storage.catalog.images import FileStamp, images_in_folder, stamp_of
from storage.catalog.leases import check_fence
from storage.catalog.memory_models import StoredFreeze
from storage.catalog.models import Chain, EventKind, Folder, ImageState

_JUDGED = (FreezeKind.VANISHED, FreezeKind.GREW, FreezeKind.INCOMPRESSIBLE, FreezeKind.BROKEN)
"""What is looked for in a single chain."""

_ARRIVING = (ImageState.SETTLING, ImageState.MISSING)
_TURNS_MAX = 4


@dataclass(frozen=True, slots=True)
class KnownFile:
    """An image file as the catalogue knows it."""

    image_id: int
    chain_id: int | None
    stamp: FileStamp
    state: ImageState
    root: bytes | None
    hinted_at: datetime | None


@dataclass(frozen=True, slots=True)
class ChainView:
    """A chain at one moment.

    Attributes:
        folder: its folder.
        chain: its row; a plan holds as long as it keeps its revision.
        facts: all that is known of it.
        policy: what its folder is told to do.
        plan: what is due.
        files: the images of the folder, by name, if something is to be done.
        now: the moment (calendar).
    """

    folder: Folder
    chain: Chain
    facts: ChainFacts
    policy: FolderPolicy
    plan: ChainPlan
    files: Mapping[str, KnownFile]
    now: datetime

    @property
    def path(self) -> Path:
        """The folder's path."""
        return Path(self.folder.path)

    @property
    def title(self) -> str:
        """Volume and base, as file names begin."""
        return f"{self.chain.volume}-b{self.chain.base_number:03d}"

    @property
    def is_in_trouble(self) -> bool:
        """Whether an image of it is bad, or gone."""
        return any(one.fault is not None or one.place is Whereabouts.GONE for one in self.facts.holdings)


def load_view(
    context: AgentContext, chain_id: int, fence: int, blocked: Mapping[str, str]
) -> ChainView | None:
    """Load a chain, and plan it; freezes that begin or end with what is found are recorded first.

    Args:
        context: surroundings.
        chain_id: the chain.
        fence: of the lease.
        blocked: results that are not to be tried at present, by name, each with its reason.

    Returns:
        The chain and its plan; None if it is no longer catalogued, or nothing may be done in its folder now.

    Raises:
        CatalogError: the catalogue cannot be used.
        ConfigurationError: what is stored of the folder is no setting of this version.
    """
    for _ in range(_TURNS_MAX):
        with context.catalog.read() as session:
            chain = session.get(Chain, chain_id)
            if chain is None:
                return None
            view = _view_of(context, session, chain, blocked)
            found = _freezes_of(session, view)
            query = select(StoredFreeze.key).where(
                StoredFreeze.chain_id == chain_id, StoredFreeze.kind.in_(_JUDGED)
            )
            stored = frozenset(session.scalars(query))
        if not may_be_worked_in(view.folder):
            return None
        if stored == {freeze.key for freeze in found}:
            return view
        _record_freezes(context, view, fence, found)
    return view


def may_be_worked_in(folder: Folder) -> bool:
    """Tell whether a folder can be read, is ours, and its ledger is known."""
    return folder.problem is None and folder.ledger_read_at is not None


def _view_of(context: AgentContext, session: Session, chain: Chain, blocked: Mapping[str, str]) -> ChainView:
    now = context.clock()
    folder = session.get_one(Folder, chain.folder_id)
    policy = folder_policy(session, folder)
    facts = chain_facts(session, chain, now=now, machine_now=context.machine_clock(), blocked=blocked)
    control = agent_policy(session).control
    plan = plan_chain(facts, policy, now, control, started=chain.started_at is not None)
    images = {} if plan.is_idle else images_in_folder(session, folder.id)
    files = {
        name: KnownFile(image.id, image.chain_id, stamp_of(image), image.state, image.root, image.hinted_at)
        for name, image in images.items()
    }
    return ChainView(folder, chain, facts, policy, plan, files, now)


def _freezes_of(session: Session, view: ChainView) -> list[Freeze]:
    """Judge what looks wrong with a chain; what a person said is well stays recorded as it was."""
    there = [one for one in view.facts.holdings if one.place is not Whereabouts.ASIDE]
    vanished = judge_vanished(len(there), gone_images(session, view.chain.id))
    broken = [freeze for freeze in view.plan.freezes if freeze.kind is FreezeKind.BROKEN]
    sizes = judge_sizes(view.facts.holdings, view.now)
    return [*([] if vanished is None else [vanished]), *sizes, *broken]


def _record_freezes(context: AgentContext, view: ChainView, fence: int, found: list[Freeze]) -> None:
    folder_id, chain_id = view.folder.id, view.chain.id
    with context.catalog.write() as session:
        check_fence(session, chain_id, fence)
        changes = set_freezes(session, Scope(folder_id, chain_id), found, judged=_JUDGED, now=view.now)
        for freeze in changes.begun:
            text = f"{freeze.reason}; nothing is removed, which ends {freeze.ends}"
            context.note(session, EventKind.FROZEN, view.title, text, folder_id=folder_id, chain_id=chain_id)
        for freeze in changes.ended:
            text = f"no longer so: {freeze.reason}"
            context.note(
                session, EventKind.UNFROZEN, view.title, text, folder_id=folder_id, chain_id=chain_id
            )


def not_yet_taken_in(view: ChainView, last_number: int) -> str | None:
    """Name a file of a chain that the catalogue does not know as it is.

    A period is summed up, and images are removed, only by what really lies in the folder: after a pause its last
    images may have landed without being catalogued, or be on their way; others may be gone. What is numbered past the
    next point can wait.

    Args:
        view: the chain.
        last_number: number of the last point that the work is about.

    Returns:
        A file's name, or the folder's path if it cannot be read; None if all are known.
    """
    try:
        stamps = list_images(view.path)
    except OSError:
        return view.folder.path
    for file_name, stamp in stamps.items():
        name = parse_image_name(file_name)
        if name is None or (name.volume, name.base) != (view.chain.volume, view.chain.base_number):
            continue
        known = view.files.get(file_name)
        arriving = known is None or known.state in _ARRIVING or known.stamp != stamp
        if arriving and name.point_number <= last_number + 1:
            return file_name
    for file_name, known in view.files.items():
        is_there = known.chain_id == view.chain.id and known.state is ImageState.GOOD
        if is_there and file_name not in stamps:
            return file_name
    return None
