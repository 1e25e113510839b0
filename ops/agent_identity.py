"""Who the agent is, kept beside the catalogue: so that it is known again when the catalogue was lost."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from policies.errors import StorageError

if TYPE_CHECKING:
    from storage.catalog.database import Catalog

IDENTITY_NAME: Final = "agent.id"
"""File in the state directory: 32 hexadecimal digits, the owner that the ledgers of its folders name."""

_UID: Final = re.compile(r"[0-9a-f]{32}")


def settle_identity(catalog: Catalog, state_dir: Path, now: datetime) -> str:
    """Have a catalogue and its state directory say the same of who the agent is.

    A new catalogue takes over who the agent was; a catalogue that has an agent, shared with other machines perhaps,
    says who that is.

    Args:
        catalog: the catalogue, prepared.
        state_dir: the agent's private directory.
        now: calendar time.

    Returns:
        The identity.

    Raises:
        CatalogError: the catalogue cannot be used.
        StorageError: the state directory refuses.

    Crash: the catalogue knows, and the file is written the next time.
    """
    from storage.catalog.agents import agent_of
    from storage.catalog.memory_models import Agent

    known = kept_identity(state_dir)
    with catalog.read() as session:
        agent = session.get(Agent, 1)
    if agent is None:
        with catalog.write() as session:
            agent = agent_of(session, now=now, uid=known)
    if agent.uid != known:
        _keep(state_dir, agent.uid)
    return agent.uid


def kept_identity(state_dir: Path) -> str | None:
    """Return who the agent was, as its state directory says; None if it says nothing."""
    with suppress(OSError):
        text = (state_dir / IDENTITY_NAME).read_text(errors="replace").strip()
        if _UID.fullmatch(text):
            return text
    return None


def _keep(state_dir: Path, uid: str) -> None:
    from storage.publish import PartialFile, storage_errors

    path = state_dir / IDENTITY_NAME
    with storage_errors(path), PartialFile(path, replacing=True) as partial:
        os.fchmod(partial.fd, 0o600)
        if os.write(partial.fd, f"{uid}\n".encode()) != len(uid) + 1:
            raise StorageError("was not written whole", path=str(path))
        partial.replace()
