"""A catalogue with one chain in it, for tests of what the agent remembers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from policies.names import Tier
from policies.points import Point, PointId
from policies.retention import PlannedRetirement
from storage.catalog import Catalog, Chain, Image, ImageState
from storage.catalog.chains import chain_for
from storage.catalog.folders import add_folder
from storage.catalog.holders import Holder
from storage.catalog.images import FileStamp, ImageFacts, new_image, set_facts
from storage.catalog.leases import take_lease
from storage.catalog.tombstones import Removal
from storage.file_marks import FileMark

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
ME = Holder.of_this_process()
POINTS = tuple(
    Point(PointId(bytes([number + 1]) * 16), number, NOON + number * MINUTE, 1 << 40) for number in range(6)
)
DAILY = "A-b001-i003-cd.spi"


def put_chain(catalog: Catalog, path: Path = Path("/images")) -> tuple[int, int]:
    """Catalogue a base, incrementals 1 to 3, and the daily that holds them, all good; return folder and chain."""
    with catalog.write() as session:
        folder = add_folder(session, path, "UTC", now=NOON, machine_now=NOON)
        chain = chain_for(session, folder.id, b"c" * 16, "A", 1, now=NOON)
        spans = {"A-b001.spf": (None, POINTS[:1]), DAILY: (POINTS[0], POINTS[1:4])}
        for number in (1, 2, 3):
            spans[incremental(number)] = (POINTS[number - 1], POINTS[number : number + 1])
        for name, (start, covers) in spans.items():
            image = new_image(session, folder.id, FileStamp(name, 10, 20), NOON, NOON)
            set_facts(image, ImageFacts(chain.id, root_of(name), start, covers))
            image.state = ImageState.GOOD
            image.verified_at = image.checked_at = NOON
        session.flush()
        return folder.id, chain.id


def incremental(number: int) -> str:
    return f"A-b001-i{number:03d}.spi"


def root_of(name: str) -> bytes:
    return name.encode().ljust(32, b".")[:32]


def removal(number: int, *, to_incrementals: bool = False) -> Removal:
    """Return the removal of an incremental that the daily covers."""
    name = incremental(number)
    planned = PlannedRetirement(name, Tier.INCREMENTAL, DAILY, to_incrementals, "rolled up, and old")
    return Removal(planned, root_of(name), (FileMark(name, 10, 20, number),))


def lease(catalog: Catalog, chain_id: int) -> tuple[int, int]:
    """Take the chain's lease; return its fence and the chain's revision."""
    with catalog.write() as session:
        fence = take_lease(session, chain_id, ME, machine_now=NOON, lease_time=MINUTE)
        assert fence is not None
        return fence, session.get_one(Chain, chain_id).revision


def image_named(catalog: Catalog, name: str) -> Image | None:
    with catalog.read() as session:
        return next((image for image in session.query(Image) if image.name == name), None)
