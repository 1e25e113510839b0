"""Squashed images and differentials at full size: exact, and the room they take."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import Tell
from tests.bed import Bed, encrypted_bed
from tests.checks import crash, squashing
from tests.command import in_own_process
from tests.history import GIB, MIB, history_folder, shrink_and_grow

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def locked(room: Path) -> Bed:
    """A volume of 1 GiB that shrinks and grows again, encrypted."""
    folder = room / "squash-locked"
    folder.mkdir()
    history = shrink_and_grow(history_folder(), GIB, seed=1)
    return encrypted_bed(folder, history, per_day=2, per_week=4, command=in_own_process)


@pytest.mark.parametrize("check", squashing.CHECKS, ids=lambda check: check.__name__)
def test_server(tell: Tell, bed: Bed, check: squashing.Check) -> None:
    tell(check.__name__.replace("_", " "), lambda: check(bed))


@pytest.mark.parametrize("check", squashing.CHECKS, ids=lambda check: check.__name__)
def test_shrinks_and_grows(tell: Tell, resized: Bed, check: squashing.Check) -> None:
    tell(f"shrinks and grows, {check.__name__.replace('_', ' ')}", lambda: check(resized))


@pytest.mark.parametrize("check", squashing.CHECKS, ids=lambda check: check.__name__)
def test_encrypted(tell: Tell, locked: Bed, check: squashing.Check) -> None:
    tell(f"encrypted, shrinks and grows, {check.__name__.replace('_', ' ')}", lambda: check(locked))


def test_kills(tell: Tell, bed: Bed) -> None:
    tell("killed at any moment", lambda: crash.killed_squash(bed, 40))


def test_random_sectors(tell: Tell, bed: Bed) -> None:
    tell("random sectors", lambda: squashing.random_sectors(bed, 128 * MIB, 24, 1 / 8))


def test_random_sectors_encrypted(tell: Tell, locked: Bed) -> None:
    tell("random sectors, encrypted", lambda: squashing.random_sectors(locked, 128 * MIB, 24, 1 / 8))
