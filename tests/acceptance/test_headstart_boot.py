"""The full-size checks of starting what was captured: a small Linux, from its images and from rolled disks."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsr.disks.form import DiskKind
from hsr.wrapping.wrapping import Wrap
from tests.acceptance.conftest import Tell
from tests.checks import starting
from tests.loop import needs_root

pytestmark = [pytest.mark.acceptance, needs_root]


@pytest.fixture(scope="module")
def machine(room: Path) -> starting.Machine:
    folder = room / "linux"
    folder.mkdir()
    return starting.Machine(folder, linux=True)


@pytest.mark.parametrize("wrap", [Wrap.MBR, Wrap.GPT])
def test_instant_boot(tell: Tell, machine: starting.Machine, wrap: Wrap) -> None:
    for number in (0, 2):
        tell(
            f"Linux by instant boot, point {number}, {wrap}",
            lambda number=number: starting.by_instant_boot(machine, number, wrap.value),
        )


def test_restore_test(tell: Tell, machine: starting.Machine) -> None:
    tell("Linux under test-restore, point 1", lambda: starting.by_test_restore(machine, 1, "mbr"))


def test_scheduled_test(tell: Tell, machine: starting.Machine) -> None:
    tell("Linux under a job's restore test", lambda: starting.by_scheduled_test(machine, "gpt"))


@pytest.mark.parametrize("kind", starting.KINDS)
def test_rolled_disks(tell: Tell, machine: starting.Machine, kind: DiskKind) -> None:
    tell(f"Linux from a rolled {kind}", lambda: starting.from_rolled_disk(machine, kind, Wrap.MBR))
