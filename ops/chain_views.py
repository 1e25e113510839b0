"""A chain, all that is known of it, and its plan at this moment: what `plan` and `why` tell from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

from sqlalchemy import select

from ops.clock import machine_now
from policies.chain_facts import ChainFacts
from policies.errors import ConfigurationError
from policies.folder_policy import ControlPolicy, FolderPolicy
from policies.lifecycle import ChainPlan, plan_chain
from storage.catalog.agents import agent_policy
from storage.catalog.chains import chains_of_folder
from storage.catalog.facts import chain_facts
from storage.catalog.folders import folder_policy
from storage.catalog.models import Attempt, Chain, Folder, WorkKind

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class ChainView:
    """A chain at one moment.

    Attributes:
        folder: its folder.
        chain: its row.
        facts: all that is known of it.
        policy: what its folder is told to do.
        control: when the daily work is done.
        now: the moment.
        plan: what is due.
    """

    folder: Folder
    chain: Chain
    facts: ChainFacts
    policy: FolderPolicy
    control: ControlPolicy
    now: datetime
    plan: ChainPlan

    @property
    def title(self) -> str:
        """Name of the volume, and which base."""
        return f"{self.chain.volume} b{self.chain.base_number:03d}"


def view_of(session: Session, folder: Folder, chain: Chain, now: datetime) -> ChainView:
    """Load a chain and plan it, as the agent would.

    Args:
        session: any session.
        folder: its folder.
        chain: its row.
        now: calendar time.

    Raises:
        ConfigurationError: what is stored of the folder is no setting of this version.
    """
    blocked = _blocked(session, folder, now)
    facts = chain_facts(session, chain, now=now, machine_now=machine_now(), blocked=blocked)
    policy, control = folder_policy(session, folder), agent_policy(session).control
    plan = plan_chain(facts, policy, now, control, started=chain.started_at is not None)
    return ChainView(folder, chain, facts, policy, control, now, plan)


def views_of_folder(
    session: Session, folder: Folder, now: datetime, volume: str | None = None
) -> Iterator[ChainView]:
    """Load and plan the chains of a folder, one after the other.

    Args:
        session: any session.
        folder: the folder.
        now: calendar time.
        volume: only this volume's; None for all.

    Raises:
        ConfigurationError: the folder has no such volume.
    """
    chains = chains_of_folder(session, folder.id)
    chosen = [chain for chain in chains if volume in (None, chain.volume)]
    if volume is not None and not chosen:
        known = ", ".join(sorted({chain.volume for chain in chains})) or "none yet"
        raise ConfigurationError(
            f"holds no volume {volume!r}", path=folder.path, hint=f"Its volumes: {known}."
        )
    for chain in chosen:
        yield view_of(session, folder, chain, now)


def _blocked(session: Session, folder: Folder, now: datetime) -> dict[str, str]:
    """Tell which results are not to be tried at present, after trouble or because a person dropped them, and why."""
    query = select(Attempt).where(Attempt.kind == WorkKind.CONSOLIDATE, Attempt.folder_id == folder.id)
    found = {}
    for attempt in session.scalars(query):
        name = attempt.title.removesuffix(f" in {folder.path}")
        if attempt.dropped_by is not None:
            found[name] = f"{attempt.dropped_by} said that it is not to be done"
        elif attempt.engine_version == version("rollforward") and attempt.quarantined:
            found[name] = f"it was set aside: {attempt.reason}; `rollforward queue retry` has it tried again"
        elif attempt.retry_at is not None and attempt.retry_at > now:
            found[name] = f"it is tried again at {attempt.retry_at:%Y-%m-%d %H:%M} UTC: {attempt.reason}"
    return found
