"""An agent without processes: its jobs, run one after the other in this one, on real files and a real catalogue.

What a worker would take from Redis is taken from a list here, so that a whole fortnight passes in seconds, and any step
can be stopped. The clock is moved by hand.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import select

from actors.chain_work import look_after_chain
from actors.context import AgentContext, Pace
from actors.headstart import roll_disk
from actors.hints import CONSOLIDATE, HEADSTART, RECONCILE, RESTORE_TEST, REVERIFY, VERIFY, Hints, Job
from actors.reconcile import reconcile_folder
from actors.restore_tests import try_restore
from actors.verify import reverify_image, verify_image
from hsr.testing_restore.order import Tester
from ops.clock import machine_now
from storage.capture import capture
from storage.catalog import Catalog, Chain, Event, EventKind, Image, ImageState, Tombstone, sqlite_url
from storage.catalog.agents import agent_of
from storage.catalog.chains import chains_due, make_folder_due
from storage.catalog.folders import add_folder, set_folder_settings
from storage.catalog.headstart import disks_due
from storage.catalog.holders import Holder
from storage.catalog.models import Folder, Layer
from storage.catalog.point_tests import disks_to_test
from storage.credentials import KEY_FILE, CredentialSeal

VOLUME = "V"
_TURNS_MAX = 200
_AT_ONCE = timedelta(0)
_JOBS: dict[str, Callable[[AgentContext, Hints, int], None]] = {
    RECONCILE.name: reconcile_folder,
    VERIFY.name: verify_image,
    REVERIFY.name: reverify_image,
    CONSOLIDATE.name: look_after_chain,
    HEADSTART.name: roll_disk,
    RESTORE_TEST.name: try_restore,
}


class Inbox(Hints):
    """Keeps hints instead of sending them."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[str, int]] = deque()

    def _send(self, job: Job, subject_id: int) -> bool:
        if (job.name, subject_id) not in self.waiting:
            self.waiting.append((job.name, subject_id))
        return True


@dataclass
class Household:
    """One managed folder, one catalogue, and the jobs that look after them.

    Attributes:
        place: where all of it lies.
        now: calendar time.
        zone: of the folder.
        uid: who the agent is, whichever catalogue it has.
        name: of the catalogue's file.
        url: of the catalogue, if it is no file here.
        host: of the machine that it pretends to run on; None for this one.
        tester: tests restores.
    """

    place: Path
    now: datetime
    zone: str = "Europe/Berlin"
    uid: str = "a" * 32
    name: str = "catalogue"
    url: str | None = None
    host: str | None = None
    inbox: Inbox = field(default_factory=Inbox)
    tester: Tester | None = None

    def __post_init__(self) -> None:
        self.folder = self.place / "images"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.open()

    def open(self) -> None:
        """Open the catalogue, made if it is not there; all that was under way is forgotten, as when a process ends."""
        self.catalog = Catalog(self.url or sqlite_url(self.place / f"{self.name}.sqlite"))
        self.catalog.prepare()
        self.inbox = Inbox()
        self.context = AgentContext(
            self.catalog,
            lambda: self.now,
            machine_now,
            engine_version="test",
            pace=Pace(settle_time=_AT_ONCE, hint_again=_AT_ONCE),
            holder=self._holder(),
            seal=CredentialSeal(self.place / KEY_FILE),
            tester=self.tester,
        )
        self.context.throttle.set_percent(100)
        with self.catalog.write() as session:
            agent_of(session, now=self.now, uid=self.uid)
            folder = add_folder(session, self.folder, self.zone, now=self.now, machine_now=machine_now())
            self.folder_id = folder.id

    def _holder(self) -> Holder:
        here = Holder.of_this_process()
        return here if self.host is None else replace(here, host=self.host)

    def reopen(self) -> None:
        """End as a killed process does, and begin anew: what it held is free."""
        self.catalog.close()
        self.open()
        with self.catalog.write() as session:
            for table in ("lease", "attempt"):
                session.connection().exec_driver_sql(f"UPDATE {table} SET expires_at = '2000-01-01 00:00:00'")

    def lose_catalogue(self) -> None:
        """Delete the catalogue, and begin anew."""
        self.catalog.close()
        for path in self.place.glob(f"{self.name}.sqlite*"):
            path.unlink()
        self.open()

    @contextmanager
    def opened(self) -> Iterator[Catalog]:
        """Give its catalogue."""
        yield self.catalog

    def plan_anew(self) -> None:
        """Have every chain planned, whatever the catalogue says of when."""
        with self.catalog.write() as session:
            make_folder_due(session, None)

    def set_layer(self, layer: Layer) -> None:
        """Give the folder settings of its own."""
        with self.catalog.write() as session:
            folder = session.get_one(Folder, self.folder_id)
            set_folder_settings(session, folder, layer)

    # --- work

    def scan(self) -> None:
        reconcile_folder(self.context, self.inbox, self.folder_id)

    def drain(self) -> None:
        """Do all that was hinted at, and what that hints at."""
        while self.inbox.waiting:
            job, subject_id = self.inbox.waiting.popleft()
            _JOBS[job](self.context, self.inbox, subject_id)

    def due(self) -> list[int]:
        with self.catalog.read() as session:
            return [chain_id for chain_id, _ in chains_due(session, self.now)]

    def disks_due(self) -> list[int]:
        with self.catalog.read() as session:
            return disks_due(session, self.now)

    def disks_to_test(self) -> list[int]:
        with self.catalog.read() as session:
            return disks_to_test(session, self.now)

    def settle(self) -> None:
        """Scan and work until nothing is to be done any more at this moment."""
        for _ in range(_TURNS_MAX):
            self.scan()
            self.drain()
            due = self.due()
            for chain_id in due:
                look_after_chain(self.context, self.inbox, chain_id)
            disks = self.disks_due()
            for disk_id in disks:
                roll_disk(self.context, self.inbox, disk_id)
            tests = self.disks_to_test()
            for disk_id in tests:
                try_restore(self.context, self.inbox, disk_id)
            if not due and not disks and not tests and not self.inbox.waiting:
                return
        raise AssertionError(f"never settles: {self.waits()}, {self.last_events()}")

    # --- what is known

    def images(self) -> dict[str, Image]:
        with self.catalog.read() as session:
            return {image.name: image for image in session.scalars(select(Image))}

    def states(self) -> dict[str, ImageState]:
        return {name: image.state for name, image in self.images().items()}

    def stones(self) -> dict[str, Tombstone]:
        with self.catalog.read() as session:
            return {stone.name: stone for stone in session.scalars(select(Tombstone).order_by(Tombstone.id))}

    def events(self, kind: EventKind, subject: str | None = None) -> list[Event]:
        with self.catalog.read() as session:
            query = select(Event).where(Event.kind == kind).order_by(Event.id)
            return [event for event in session.scalars(query) if subject in (None, event.subject)]

    def last_events(self) -> list[str]:
        with self.catalog.read() as session:
            rows = session.scalars(select(Event).order_by(Event.id.desc()).limit(12))
            return [f"{event.kind} {event.subject}: {event.text}" for event in rows]

    def waits(self) -> list[str | None]:
        with self.catalog.read() as session:
            return list(session.scalars(select(Chain.waits_for)))

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir() if path.is_file()}

    def retired(self) -> set[str]:
        return {path.name for path in (self.folder / ".rollforward" / "retired").glob("*/*")}


@dataclass
class Source:
    """A volume that changes, and is captured.

    Attributes:
        path: its raw file.
        volume_bytes: its size.
        seed: of all that is random in it.
    """

    path: Path
    volume_bytes: int
    seed: int = 1

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.path.write_bytes(self.chance.randbytes(self.volume_bytes))

    def change(self, pieces: int = 30) -> None:
        with self.path.open("r+b") as file:
            for _ in range(pieces):
                file.seek(self.chance.randrange(self.volume_bytes - 4096))
                file.write(self.chance.randbytes(4096))

    def capture_into(self, folder: Path, now: datetime) -> Path:
        self.change()
        return capture(self.path, folder, VOLUME, now=now).path
