"""A guest that was captured starts: straight from its images, and from disks that were rolled forward."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from hsr.disks.flat import content_path
from hsr.disks.form import DiskKind, Stamp
from hsr.rolling.cursor_file import Place
from hsr.rolling.disk import RollingDisk
from hsr.testing_restore.order import Order
from hsr.wrapping.wrapping import Wrap, wrapping_for
from ops.restore_tester import ChildTester
from storage.chain import load_chain
from storage.image import ImageReader
from tests import linux_guest
from tests.checks.serving import BOOT_SECTOR
from tests.command import PROGRAM, in_own_process
from tests.commands import run, tool
from tests.disk_readers import CHECKABLE, qemu_driver
from tests.unit.tiny import TinyVolume
from tests.waiting import wait_for

KINDS: Final = (DiskKind.VHD, DiskKind.VMDK, DiskKind.VHDX)
PATIENCE_S: Final = 240.0


class Machine:
    """A captured machine with three states.

    Args:
        home: an empty folder.
        linux: whether it is the small Linux; else a boot sector that says one thing in any state.
    """

    def __init__(self, home: Path, *, linux: bool) -> None:
        self.home, self.linux = home, linux
        self.volume = TinyVolume(home / "machine", "SYSTEM")
        self.bus = linux_guest.BUS if linux else "sata"
        if linux:
            linux_guest.make_volume(self.volume.raw)
        else:
            self.volume.put(0, BOOT_SECTOR.ljust(510, b"\0") + b"\x55\xaa" + bytes(4 << 20))
        for number in range(3):
            if number:
                self._change(number)
            self.volume.capture()

    def _change(self, number: int) -> None:
        if self.linux:
            linux_guest.set_state(self.volume.raw, number)
        else:
            self.volume.put(number << 20, b"state" * number)

    def marker(self, number: int) -> str:
        return linux_guest.marker(number) if self.linux else "booted from a backup"

    @property
    def options(self) -> tuple[str, ...]:
        return ("--volume", self.volume.name, "--bus", self.bus, "--memory", "256", "--accelerator", "tcg")


def by_instant_boot(machine: Machine, number: int, wrap: str) -> str:
    """`rollforward boot` starts a point; its words are on the console; the images stay as they are."""
    console = machine.home / f"console-{wrap}-{number}"
    command = [PROGRAM, "boot", str(machine.volume.folder), *machine.options, "--point", str(number),
               "--wrap", wrap, "--serial", str(console), "--json"]  # fmt: skip
    begin = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            running_s = time.monotonic() - begin
            marker = machine.marker(number)
            wait_for(lambda: marker in console.read_text(errors="replace"), marker, PATIENCE_S)
            up_s = time.monotonic() - begin
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()
    assert told["status"] == "running"
    machine.volume.check(number)
    return f"runs after {running_s:.1f} s, up after {up_s:.1f} s"


def by_test_restore(machine: Machine, number: int, wrap: str) -> str:
    """`rollforward test-restore` finds its file system clean and its words on the console, and keeps a screenshot."""
    shot = machine.home / "screen.png"
    shot.unlink(missing_ok=True)
    ran = in_own_process("test-restore", machine.volume.folder, *machine.options, "--point", str(number), "--boot",
                         "--wrap", wrap, "--marker", machine.marker(number), "--limit", str(PATIENCE_S),
                         "--screenshot", shot, "--json")  # fmt: skip
    assert ran.code == 0, str(ran)
    (told,) = ran.objects
    assert told["start"]["ending"] == "marker"
    if machine.linux:
        assert [check["verdict"] for check in told["file_systems"]] == ["good"]
    assert shot.read_bytes()[:4] == b"\x89PNG"
    return f"up after {told['start']['seconds']:.1f} s, screenshot of {shot.stat().st_size:,} bytes"


def by_scheduled_test(machine: Machine, wrap: str) -> str:
    """What the agent does for a job that says so: the newest point, in a process of its own, started to its words."""
    marker = machine.marker(max(machine.volume.states))
    order = order_of(
        machine.volume, starts=True, insists=True, wrap=wrap, bus=machine.bus, marker=marker, shot="last.png"
    )
    answer = ChildTester(machine.home / "state")(order, lambda: False)
    assert answer is not None
    assert answer.verdict == "good", answer
    assert "start: said its words" in answer.words
    assert answer.screenshot is not None
    return f"{answer.words}; {answer.seconds:.1f} s in all"


def order_of(volume: TinyVolume, **wishes: object) -> Order:
    """Have the newest point of a volume tested."""
    chain = load_chain(volume.folder, volume.name)
    point = chain.newest()
    images = chain.path_to(point)
    roots = []
    for path in images:
        with ImageReader(path) as image:
            roots.append(image.root)
    order = Order(images, tuple(roots), point.id, volume.name, 1)
    return replace(order, **wishes)  # type: ignore[arg-type]


def from_rolled_disk(machine: Machine, kind: DiskKind, wrap: Wrap) -> str:
    """A disk that was rolled from point to point and finalized starts in a qemu that knows nothing of us."""
    path = rolled(machine, kind, wrap)
    driver = qemu_driver(kind)
    if kind in CHECKABLE:
        run("qemu-img", "check", "-q", "-f", driver, str(path))
    number = max(machine.volume.states)
    console = machine.home / f"console-{kind}-{wrap}"
    disk = {"sata": "ide-hd,drive=disk,bus=ide.0", "nvme": "nvme,drive=disk,serial=1"}[machine.bus]
    command = [tool("qemu-system-x86_64"), "-machine", "q35,accel=tcg", "-cpu", "max", "-m", "256", "-nodefaults",
               "-display", "none", "-serial", f"file:{console}", "-device", disk,
               "-drive", f"if=none,id=disk,format={driver},file={path},snapshot=on"]  # fmt: skip
    begin = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as guest:
        try:
            wait_for(
                lambda: console.exists() and machine.marker(number) in console.read_text(errors="replace"),
                f"{kind} to start",
                PATIENCE_S,
            )
        finally:
            guest.kill()
    path.unlink()
    return f"up after {time.monotonic() - begin:.1f} s"


def rolled(machine: Machine, kind: DiskKind, wrap: Wrap) -> Path:
    """Build a disk at the first point, roll it from point to point, and finalize it at the last."""
    volume = machine.volume
    path = machine.home / f"disk-{wrap}.{kind}"
    chain = load_chain(volume.folder, volume.name)
    newest = chain.newest()
    wrapping = wrapping_for(wrap, newest.volume_bytes)
    place = Place(wrapping.disk_bytes, wrapping.offset, newest.volume_bytes, wrap.value)
    header = next(image.header for image in chain.images if image.header is not None)
    with RollingDisk.begin(path, kind, place, job_uid=bytes(16), chain_id=header.chain_id) as disk:
        for image in chain.path_to(newest):
            disk.apply([image])
            told = subprocess.run(
                [tool("blkid"), "-p", str(content_path(path, kind))], capture_output=True, check=False
            )
            assert not told.stdout, "nobody is to see a disk before it is finalized"
        stamp = Stamp(header.chain_id + newest.id, newest.time)
        disk.finalize(newest, patches=wrapping.parts(disk.read, header.metadata, stamp))
    return path


def goes_on_as_its_chain(machine: Machine) -> str:
    """What a guest writes that was started from a backup is captured onto the chain, while it runs."""
    control, console, volume = machine.home / "qmp", machine.home / "console", machine.volume
    newest = max(volume.states)
    command = [PROGRAM, "boot", str(volume.folder), *machine.options, "--serial", str(console), "--qmp", str(control),
               "--json"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            wait_for(
                lambda: machine.marker(newest) in console.read_text(errors="replace"), "the guest", PATIENCE_S
            )
            captured = [
                in_own_process("capture", "--qmp", control, "--node", "disk0", "--scratch", machine.home, "--into",
                               volume.folder, "--volume", volume.name, "--json")
                for _ in range(2)
            ]  # fmt: skip
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()
    for ran in captured:
        assert ran.code == 0, str(ran)
    assert [ran.objects[0]["read"] for ran in captured] == ["whole", "marked"]
    target = machine.home / "after.raw"
    volume.restore(newest + 1, target)
    after, before = target.read_bytes(), volume.states[newest]
    if not machine.linux:
        assert after[512:1024] == before[:512] == after[:512]
        assert after[1024:] == before[1024:]
    return f"point {newest + 1} from the guest, point {newest + 2} by its bitmap"
