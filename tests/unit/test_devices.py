"""What tells a device from all others, and the mark by which an unfinished disk on one is known again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hsr.disks import devices
from hsr.disks.device_mark import DeviceMark, Front, front_of, read_mark, refuse_other
from hsr.disks.devices import device_identity, lasting_name, what_is_on
from hsr.disks.side_files import Claim
from policies.errors import RestoreError
from tests.loop import loop_device, needs_root

CLAIM = Claim(b"j" * 16, b"t" * 16)
MARK = DeviceMark(CLAIM, 1 << 30, "wwid naa.5000c500a1b2c3d4")
FRONT = MARK.front()
GOAL = bytes(1024) + b"abc" * 512 + bytes(512) + b"end".ljust(1024)
PATH = Path("/dev/sdz")


def mixed(*done: int) -> bytes:
    """Return the front, of which some sectors have reached their goal."""
    sectors = (GOAL if number in done else FRONT for number in range(8))
    return b"".join(whole[number * 512 :][:512] for number, whole in enumerate(sectors))


def test_a_mark_is_read_as_it_was_written_and_nothing_else_is_one():
    assert len(FRONT) == len(GOAL) == 4096
    assert read_mark(FRONT) == MARK
    assert not any(FRONT[:2048])
    for at in (0, 1080, 2048, 2100, 2555, 2560, 4095):
        assert read_mark(FRONT[:at] + bytes([FRONT[at] ^ 1]) + FRONT[at + 1 :]) is None
    assert read_mark(bytes(4096)) is None
    assert read_mark(b"") is None


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (FRONT, Front.UNFINISHED),
        (GOAL, Front.FINISHED),
        (mixed(2), Front.TORN),
        (mixed(4), Front.TORN),
        (mixed(0, 1, 2, 3, 5, 6, 7), Front.TORN),
        (bytes(4096), Front.STRANGE),
        (mixed(2)[:-1] + b"x", Front.STRANGE),
        (b"x" * 4096, Front.STRANGE),
    ],
)
def test_how_a_front_stands(found: bytes, state: Front):
    assert front_of(found, FRONT, GOAL) is state


def test_a_blank_front_of_a_blank_goal_is_unfinished():
    """A raw file whose front is to be zero was perhaps not finalized: it is, again."""
    assert front_of(bytes(4096), bytes(4096), bytes(4096)) is Front.UNFINISHED


@pytest.mark.parametrize(
    ("found", "goal", "said"),
    [
        (FRONT, None, None),
        (FRONT, GOAL, None),
        (mixed(3), GOAL, None),
        (GOAL, GOAL, None),
        (GOAL, None, "bears no mark"),
        (mixed(3), None, "bears no mark"),
        (bytes(4096), GOAL, "bears no mark"),
        (DeviceMark(Claim(), MARK.size_bytes, MARK.identity).front(), None, "for another job"),
        (DeviceMark(Claim(CLAIM.owner), MARK.size_bytes, MARK.identity).front(), None, "before another one"),
        (DeviceMark(CLAIM, MARK.size_bytes, "serial 7").front(), None, "or a copy of it"),
        (DeviceMark(CLAIM, MARK.size_bytes + 512, MARK.identity).front(), GOAL, "another device"),
    ],
)
def test_another_device_is_refused(found: bytes, goal: bytes | None, said: str | None):
    if said is None:
        refuse_other(PATH, found, MARK, goal)
        return
    with pytest.raises(RestoreError, match=said):
        refuse_other(PATH, found, MARK, goal)


@needs_root
def test_what_the_kernel_says_of_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "backing").write_bytes(bytes(1 << 20))
    with loop_device(tmp_path / "backing") as device:
        assert device_identity(device) == ""
        assert lasting_name(device) == device
        assert what_is_on(device) is None
        number = device.stat().st_rdev
        whole, by_id = tmp_path / "disk", tmp_path / "by-id"
        part = whole / "part"
        part.mkdir(parents=True)
        by_id.mkdir()
        known = tmp_path / f"{os.major(number)}:{os.minor(number)}"
        known.symlink_to(part)
        monkeypatch.setattr(devices, "_SYS_BLOCK", tmp_path)
        monkeypatch.setattr(devices, "_BY_ID", by_id)
        (part / "partition").write_text("2\n")
        assert device_identity(device) == ""
        (whole / "serial").write_text("  S/N  7\n")
        assert device_identity(device) == "serial S/N 7, partition 2"
        (whole / "wwid").write_text("naa.5000\u00e9\n" + "x" * 999)
        assert device_identity(device) == f"wwid naa.5000? {'x' * 190}, partition 2"
        for name in ("ata-disk", "wwn-0x5000", "scsi-disk", "zz-other"):
            (by_id / name).symlink_to(device if name != "zz-other" else "/dev/null")
        assert lasting_name(device) == by_id / "wwn-0x5000"
        (by_id / "wwn-0x5000").unlink()
        assert lasting_name(device).name == "ata-disk"
