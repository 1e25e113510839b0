"""A catalogue with a life in it, for commands that tell of one: real SQLite, rows as the agent writes them."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ops.clock import FileClock
from ops.settings import Settings
from ops.state_dir import make_state_dir, prepare_catalogue
from policies.holdings import Holding, Whereabouts
from policies.names import parse_image_name
from storage.catalog import Catalog, Chain, Folder, Image, ImageState, sqlite_url
from storage.catalog.chains import chain_for
from storage.catalog.folders import find_folder
from storage.catalog.points import pack_point
from tests.checks.life import Life
from tests.command import Ran, in_this_process

CHAIN = b"c" * 16


@functools.cache
def _empty_catalogue() -> bytes:
    with tempfile.TemporaryDirectory(prefix="rollforward-test-") as folder:
        file = Path(folder) / "catalogue.sqlite"
        catalog = Catalog(sqlite_url(file))
        catalog.prepare()
        catalog.close()
        return file.read_bytes()


@dataclass
class Office:
    """An agent's state directory, a clock that stands still, a folder; and commands given there."""

    place: Path
    zone: str = "Europe/Berlin"

    def __post_init__(self) -> None:
        self.state = self.place / "state"
        self.folder = self.place / "web's bücher und bilder"
        self.folder.mkdir(parents=True)
        self.use_state(self.state)
        self.clock = FileClock(self.place / "now")
        self.environment = {
            "ROLLFORWARD_STATE": str(self.state),
            "ROLLFORWARD_CLOCK": str(self.clock),
            "ROLLFORWARD_TIME_ZONE": self.zone,
        }

    def use_state(self, state: Path) -> None:
        """Give a state directory an empty catalogue: a copy, since laying one out takes most of a second."""
        make_state_dir(state)
        (state / "catalogue.sqlite").write_bytes(_empty_catalogue())

    def catalog(self) -> Catalog:
        return prepare_catalogue(Settings.from_environment(self.environment).catalogue_url)

    def do(self, *words: str | Path) -> Ran:
        """Give a command, in this process."""
        with patch.dict(os.environ, self.environment):
            return in_this_process(*words)

    def did(self, *words: str | Path) -> list[dict[str, Any]]:
        """Give a command that has to succeed; return what it printed as JSON."""
        ran = self.do(*words, "--json")
        assert ran.code == 0, str(ran)
        return ran.objects

    def manage(self, now: datetime) -> None:
        self.clock.set(now)
        self.did("folder", "add", self.folder)

    def fill(self, life: Life, now: datetime) -> None:
        """Have the catalogue know what a life holds."""
        self.clock.set(now)
        catalog = self.catalog()
        with catalog.write() as session:
            folder = find_folder(session, self.folder)
            assert folder is not None
            chain = chain_for(session, folder.id, CHAIN, life.volume, 1, now=now)
            session.add_all(rows_of(life.holdings.values(), folder, chain, now))
            folder.newest_image_at = max(one.first_seen_at for one in life.holdings.values())
        catalog.close()


def rows_of(holdings: Iterable[Holding], folder: Folder, chain: Chain, now: datetime) -> list[Image]:
    return [row_of(one, folder, chain, now) for one in holdings]


def row_of(one: Holding, folder: Folder, chain: Chain, now: datetime) -> Image:
    state = ImageState.GOOD if one.is_proven else ImageState.LANDED
    if one.fault is not None:
        state = ImageState.BAD
    if one.place is not Whereabouts.PRESENT:
        state = ImageState.MISSING if one.place is Whereabouts.GONE else ImageState.ASIDE
    assert parse_image_name(one.name) is not None
    return Image(
        folder_id=folder.id,
        chain_id=chain.id,
        name=one.name,
        state=state,
        reason=one.fault,
        stored_bytes=one.span.stored_bytes,
        mtime_ns=1,
        still_since=now,
        first_seen_at=one.first_seen_at,
        verified_at=one.verified_at,
        checked_at=one.checked_at,
        root=hashlib.sha256(one.name.encode()).digest(),
        start=None if one.span.start is None else pack_point(one.span.start),
        covers=[pack_point(point) for point in one.span.covers],
        tier=one.tier,
        assumed=one.span.assumed,
        plain_bytes=one.plain_bytes,
    )
