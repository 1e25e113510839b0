"""Everything that single files have to show, of images in several files: cut at 16 MiB, the 2 GiB volume."""

from __future__ import annotations

import dataclasses
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.parts import image_files
from tests.acceptance.conftest import Tell
from tests.bed import VOLUME, Bed
from tests.checks import crash, damage, exactness, full_disk, spanned
from tests.command import in_own_process, in_this_process
from tests.history import full_history

pytestmark = pytest.mark.acceptance

PART_BYTES = 16 << 20
SMALL_PART_BYTES = 1 << 20
"""For checks that need many parts in each image, incrementals too."""
KILLS = 30


@pytest.fixture(scope="module")
def sets(room: Path) -> Bed:
    folder = room / "spanned"
    folder.mkdir()
    return Bed(folder, full_history(), per_day=4, per_week=12, command=in_own_process, part_bytes=PART_BYTES)


@pytest.fixture(scope="module")
def many_parts(room: Path) -> Bed:
    folder = room / "many-parts"
    folder.mkdir()
    bed = Bed(folder, full_history(), per_day=4, per_week=12, part_bytes=SMALL_PART_BYTES)
    return dataclasses.replace(bed, command=in_this_process)


@pytest.mark.parametrize(
    "check",
    [
        exactness.incrementals_alone,
        exactness.consolidations_alone,
        exactness.synthetic_full,
        exactness.mixed,
        exactness.merging_order_is_no_matter,
        exactness.two_makers_agree,
        exactness.lost_fingerprints,
        exactness.by_time,
    ],
    ids=lambda check: check.__name__,
)
def test_exactness(tell: Tell, sets: Bed, check: damage.Check) -> None:
    tell(check.__name__.replace("_", " "), lambda: check(sets))


@pytest.mark.parametrize("check", [*damage.CHECKS, *spanned.CHECKS], ids=lambda check: check.__name__)
def test_damage(tell: Tell, many_parts: Bed, check: damage.Check) -> None:
    tell(check.__name__.replace("_", " "), lambda: check(many_parts))


@pytest.mark.parametrize(
    ("words", "check"),
    [("killed, capture", crash.killed_capture), ("killed, consolidate", crash.killed_consolidation)],
)
def test_killed(tell: Tell, sets: Bed, words: str, check: crash.Check) -> None:
    def count() -> str:
        figure = check(sets, KILLS)
        assert figure.startswith(f"{KILLS} kills"), figure
        return figure

    tell(words, count)


def test_full_disk(tell: Tell, sets: Bed) -> None:
    tell("disk full, capture", lambda: full_disk.full_for_captures(sets))
    tell("disk full, consolidate", lambda: full_disk.full_for_consolidations(sets))


@pytest.fixture
def few_descriptors(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """As few as a strict system grants; the command would take more if it could."""
    monkeypatch.setattr("ops.cli._allow_open_files", lambda: None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    yield 256
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_descriptors(tell: Tell, many_parts: Bed, few_descriptors: int) -> None:
    """A chain of more files than the process may open is verified, consolidated and restored."""

    def read_all() -> str:
        files = [path for image in many_parts.chain.glob(f"{VOLUME}*.sp[fi]") for path in image_files(image)]
        assert len(files) > 2 * few_descriptors
        many_parts.must_verify(many_parts.chain)
        many_parts.must_restore(many_parts.chain, [many_parts.last])
        left = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        return f"{len(files):,} files with {few_descriptors} descriptors, {left} open afterwards"

    tell("few descriptors", read_all)
