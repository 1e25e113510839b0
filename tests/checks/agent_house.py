"""The agent in processes of its own, with the same few handles as `tests.household.Household`."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import func, select

from policies.errors import CatalogError
from storage.catalog import Catalog, Chain, Image, ImageState, Tombstone, TombstoneState
from storage.catalog.chains import make_folder_due
from storage.catalog.folders import all_folders, set_folder_settings
from storage.catalog.models import Layer
from tests.integration.agent_run import AgentRun
from tests.waiting import wait_for

_UNDER_WAY = (ImageState.SETTLING, ImageState.LANDED, ImageState.VERIFYING)
_FASTER = 10
"""Where time is to pass, it does so this much faster than the real one."""


@dataclass
class AgentHouse:
    """An agent that runs.

    Attributes:
        run: the agent.
        patience_s: how long to wait until it has nothing more to do.
    """

    run: AgentRun
    patience_s: float = 300

    @property
    def folder(self) -> Path:
        return self.run.folder

    @property
    def now(self) -> datetime:
        return self.run.clock()

    @now.setter
    def now(self, moment: datetime) -> None:
        self.run.clock.set(moment)

    def set_layer(self, layer: Layer) -> None:
        """Give its folder settings of its own."""
        with self.run.catalog() as catalog, catalog.write() as session:
            [folder] = all_folders(session)
            set_folder_settings(session, folder, layer)

    def opened(self) -> AbstractContextManager[Catalog]:
        """Give its catalogue."""
        return self.run.catalog()

    def lose_catalogue(self) -> None:
        """Delete the catalogue while the agent runs; wait until it has begun anew."""
        ready = len(self.run.log_events("ready"))
        for file in self.run.state_dir.glob("catalogue.sqlite*"):
            file.unlink()
        wait_for(lambda: len(self.run.log_events("ready")) >= ready + 2, "new processes", self.patience_s)

    def plan_anew(self) -> None:
        """Have every chain planned, whatever the catalogue says of when."""
        with self.run.catalog() as catalog, catalog.write() as session:
            make_folder_due(session, None)

    def is_settled(self) -> bool:
        """Tell whether all that lies there is known and verified, and nothing is due."""
        there = {path.name for path in self.folder.iterdir() if path.suffix in (".spf", ".spi")}
        try:
            with self.run.catalog() as catalog, catalog.read() as session:
                chains = list(session.scalars(select(Chain)))
                under_way = session.scalar(
                    select(func.count()).select_from(Image).where(Image.state.in_(_UNDER_WAY))
                )
                moving = session.scalar(
                    select(func.count())
                    .select_from(Tombstone)
                    .where(Tombstone.state == TombstoneState.RETIRING)
                )
                known = set(session.scalars(select(Image.name).where(Image.state == ImageState.GOOD)))
        except CatalogError:
            return False
        is_idle = bool(chains) and all(chain.next_due_at > self.now for chain in chains)
        return is_idle and not under_way and not moving and known == there

    def settle(self, watch: Callable[[], object] = lambda: None, *, pass_time: bool = False) -> None:
        """Wait until nothing is to be done any more at this moment.

        Args:
            watch: called before each look.
            pass_time: whether the clock moves on meanwhile: pauses after trouble follow it.
        """

        looked_at = [time.monotonic()]

        def is_settled() -> bool:
            watch()
            if self.is_settled():
                return True
            if pass_time:
                passed_s = time.monotonic() - looked_at[-1]
                looked_at[-1] += passed_s
                self.now += timedelta(seconds=passed_s * _FASTER)
            return False

        wait_for(is_settled, "the agent to have nothing to do", self.patience_s)
