"""Encrypted chains: as exact, as safe from damage, and safe from those who do not have the key."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.acceptance.conftest import Tell
from tests.bed import Bed, encrypted_bed, password_file
from tests.checks import damage, exactness, forgery, secrecy
from tests.command import in_own_process, in_this_process, with_password
from tests.history import GIB, full_history, history_folder, shrink_and_grow

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def locked(room: Path) -> Bed:
    """The 2 GiB volume and its 24 changed states, encrypted."""
    folder = room / "locked"
    folder.mkdir()
    return encrypted_bed(folder, full_history(), per_day=4, per_week=12, command=in_own_process)


@pytest.fixture(scope="module")
def resized(room: Path) -> Bed:
    """A volume of 1 GiB that shrinks and grows again, encrypted."""
    folder = room / "locked-resized"
    folder.mkdir()
    history = shrink_and_grow(history_folder(), GIB, seed=1)
    return encrypted_bed(folder, history, per_day=2, per_week=4, command=in_own_process)


@pytest.fixture(scope="module")
def patients(locked: Bed) -> Bed:
    """The same bed; some hundred commands, so that they are run in this process."""
    command = with_password(in_this_process, password_file(locked.folder))
    quick = dataclasses.replace(locked, command=command)
    quick.__dict__["chain"] = locked.chain
    return quick


@pytest.mark.parametrize("check", exactness.CHECKS, ids=lambda check: check.__name__)
def test_exactness(tell: Tell, locked: Bed, check: exactness.Check) -> None:
    tell(check.__name__.replace("_", " "), lambda: check(locked))


@pytest.mark.parametrize("check", exactness.RESIZED_CHECKS, ids=lambda check: check.__name__)
def test_shrinks_and_grows(tell: Tell, resized: Bed, check: exactness.Check) -> None:
    tell(f"shrinks and grows, {check.__name__.replace('_', ' ')}", lambda: check(resized))


@pytest.mark.parametrize("check", damage.CHECKS, ids=lambda check: check.__name__)
def test_damage(tell: Tell, patients: Bed, check: damage.Check) -> None:
    tell(check.__name__.replace("_", " "), lambda: check(patients))


def test_passwords(tell: Tell, patients: Bed) -> None:
    tell("a wrong password told from damage", lambda: secrecy.wrong_password_or_damage(patients))


def test_plain_text(tell: Tell, locked: Bed) -> None:
    tell("plain text in images and beside them", lambda: secrecy.no_plain_text(locked))


def test_forgeries(tell: Tell, tmp_path: Path) -> None:
    tell("forged without the key", lambda: forgery.forgeries(*forgery.stage(tmp_path), count=10_000))
