"""The checks of starting what was captured, with a guest that is one sector long."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsr.disks.form import DiskKind
from hsr.wrapping.wrapping import Wrap
from tests.checks import starting


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> starting.Machine:
    return starting.Machine(tmp_path_factory.mktemp("start"), linux=False)


@pytest.mark.parametrize("wrap", list(Wrap))
def test_instant_boot(machine: starting.Machine, wrap: Wrap) -> None:
    assert starting.by_instant_boot(machine, 1, wrap.value)


def test_restore_test(machine: starting.Machine) -> None:
    assert starting.by_test_restore(machine, 2, "gpt")


def test_scheduled_test(machine: starting.Machine) -> None:
    assert starting.by_scheduled_test(machine, "mbr")


@pytest.mark.parametrize("kind", starting.KINDS)
@pytest.mark.parametrize("wrap", list(Wrap))
def test_rolled_disks(machine: starting.Machine, kind: DiskKind, wrap: Wrap) -> None:
    assert starting.from_rolled_disk(machine, kind, wrap)


def test_its_chain_goes_on(tmp_path: Path) -> None:
    assert starting.goes_on_as_its_chain(starting.Machine(tmp_path, linux=False))
