"""Side files that come, or are put right, after the image they speak of was judged."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from sqlalchemy import select

from actors import verify
from actors.context import AgentContext, Pace
from actors.hints import Hints
from actors.reconcile import reconcile_folder
from actors.verify import verify_image
from storage.catalog import Catalog, Image, ImageState, sqlite_url
from storage.catalog.folders import add_folder
from storage.verify import Verified
from tests.foreign import put_foreign, side_file_of
from tests.unit.tiny import TinyVolume

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
NAME = "D's Müll_VOL-b001.spf"


class Bench:
    """A managed folder whose images are verified at the press of a button."""

    def __init__(self, work_dir: Path) -> None:
        self.folder = work_dir / "images"
        self.folder.mkdir()
        self.catalog = Catalog(sqlite_url(work_dir / "catalogue.sqlite"))
        self.catalog.prepare()
        pace = Pace(settle_time=timedelta(0))
        self.context = AgentContext(self.catalog, lambda: NOON, lambda: NOON, "1", pace)
        with self.catalog.write() as session:
            self.id = add_folder(session, self.folder, "UTC", now=NOON, machine_now=NOON).id
        broker: dramatiq.Broker = StubBroker()
        for queue in ("reconcile", "verify", "consolidate"):
            broker.declare_queue(queue)
        self.hints = Hints(broker)

    def scan(self) -> list[ImageState]:
        """Scan the folder; return the states of its images."""
        reconcile_folder(self.context, self.hints, self.id)
        return [image.state for image in self.images()]

    def verify(self) -> list[ImageState]:
        """Scan the folder, and verify what landed."""
        self.scan()
        for image in self.images():
            verify_image(self.context, self.hints, image.id)
        return [image.state for image in self.images()]

    def images(self) -> list[Image]:
        with self.catalog.read() as session:
            return list(session.scalars(select(Image)))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.catalog.close()


def test_a_foreign_image_is_judged_again_when_its_side_file_changes(bench: Bench):
    path = put_foreign(bench.folder, NAME, side_file=False)
    side_file = path.with_suffix(".md5")
    assert bench.verify() == [ImageState.UNPROVEN]
    side_file.write_bytes(side_file_of((NAME, b"something else")))
    assert bench.verify() == [ImageState.BAD]
    assert bench.scan() == [ImageState.BAD]
    side_file.write_bytes(side_file_of((NAME, b"something else again")))
    assert bench.verify() == [ImageState.BAD]
    side_file.write_bytes(side_file_of((NAME, path.read_bytes())))
    assert bench.scan() == [ImageState.LANDED]
    assert bench.verify() == [ImageState.GOOD]


def test_a_side_file_that_changes_while_an_image_is_read_decides_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    path = put_foreign(bench.folder, NAME)
    right, side_file = path.with_suffix(".md5").read_bytes(), path.with_suffix(".md5")
    side_file.write_bytes(side_file_of((NAME, b"something else")))
    real = verify.read_back

    def slow(path: Path, *, progress: Callable[[int, int], None]) -> Verified:
        verified = real(path, progress=progress)
        side_file.write_bytes(right)
        return verified

    monkeypatch.setattr(verify, "read_back", slow)
    assert bench.verify() == [ImageState.LANDED]
    assert bench.verify() == [ImageState.GOOD]


def test_a_damaged_foreign_image_stays_bad(bench: Bench):
    path = put_foreign(bench.folder, NAME)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert bench.verify() == [ImageState.BAD]
    side_file = path.with_suffix(".md5")
    side_file.write_bytes(side_file.read_bytes())
    assert bench.scan() == [ImageState.BAD]
    side_file.unlink()
    assert bench.verify() == [ImageState.UNPROVEN]


def test_an_image_of_ours_is_judged_again_too_and_nothing_rests_on_it_meanwhile(bench: Bench, tmp_path: Path):
    tiny = TinyVolume(tmp_path / "away")
    tiny.put(0, b"something")
    path = bench.folder / tiny.capture().path.name
    shutil.copy(tiny.folder / path.name, path)
    assert bench.verify() == [ImageState.GOOD]
    side_file = path.with_suffix(".md5")
    side_file.write_bytes(side_file_of((path.name, b"something else")))
    with bench.catalog.write() as session:
        session.scalars(select(Image)).one().state = ImageState.LANDED  # as if it were verified again
    assert bench.verify() == [ImageState.BAD]
    side_file.unlink()
    assert bench.scan() == [ImageState.LANDED]
    assert bench.images()[0].verified_at is None
    assert bench.verify() == [ImageState.GOOD]
