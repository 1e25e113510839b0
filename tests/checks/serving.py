"""A point that is served is the volume, for every client that there is."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.bed import VOLUME, Bed
from tests.command import PROGRAM
from tests.commands import run, sha256_of, tool
from tests.serving import serving
from tests.unit.tiny import TinyVolume

BOOT_SECTOR = (
    bytes.fromhex(
        "31c0 8ed8 8ec0"  # segments
        "bb007c b80103 b90200 b600 cd13"  # write this sector over the next one, by the BIOS
        "baf803 be267c ac 84c0 7403 ee ebf8"  # send the words below to the serial port
        "b010 e6f4 f4"  # leave with status 33
    )
    + b"booted from a backup\n\0"
)


def identical_states(bed: Bed, numbers: Iterable[int]) -> str:
    """`qemu-img compare` finds each state in the export."""
    replay = bed.history.replay(bed.folder / "compared.raw")
    count = 0
    for number in numbers:
        replay.roll_to(number)
        with serving(bed.chain, VOLUME, "--point", str(number)) as uri:
            assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(replay.path), uri)
        count += 1
    replay.path.unlink()
    return f"{count} of {count} states identical"


def clean_file_system(bed: Bed) -> str:
    """`e2fsck` finds the file system in the raw file in perfect order."""
    at = bed.new_folder("mounted")
    command = [PROGRAM, "mount", str(bed.chain), str(at), "--volume", VOLUME, "--raw", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        try:
            done = subprocess.run(
                [tool("e2fsck"), "-fn", str(at / "disk.raw")], check=False, capture_output=True
            )
        finally:
            process.terminate()
    assert (done.returncode == 0) == bed.history.last.clean, done.stdout
    return "clean"


def four_clients(bed: Bed) -> str:
    """Four clients copy the whole export at once, and each gets the volume."""
    state = bed.history.last

    def copy(target: Path) -> None:
        run("nbdcopy", uri, str(target))
        assert sha256_of(target) == state.sha256
        target.unlink()

    with serving(bed.chain, VOLUME) as uri, ThreadPoolExecutor(4) as threads:
        list(threads.map(copy, [bed.folder / f"client-{number}.raw" for number in range(4)]))
    return "4 of 4 exact"


def sparse_status(bed: Bed) -> str:
    """`nbdinfo` takes the export for what it is, and sees its holes."""
    with serving(bed.chain, VOLUME) as uri:
        told = run("nbdinfo", uri)
        assert "is_read_only: true" in told, told
        assert "can_multi_conn: true" in told, told
        assert "base:allocation" in told, told
        sizes = {
            line.split()[-1]: int(line.split()[0])
            for line in run("nbdinfo", "--map", "--totals", uri).splitlines()
        }
    assert sum(sizes.values()) == bed.history.last.volume_bytes
    assert sizes["hole,zero"] > 0
    return f"{100 * sizes['hole,zero'] // sum(sizes.values())} % holes"


def guest_boots(folder: Path) -> str:
    """A guest boots from the export and writes to an overlay; the export stays as it is."""
    disk = TinyVolume(folder)
    disk.put(0, BOOT_SECTOR.ljust(510, b"\0") + b"\x55\xaa" + bytes(4 << 20))
    disk.capture()
    overlay, out = folder / "overlay.qcow2", folder / "after.raw"
    with serving(disk.folder, disk.name) as uri:
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", uri, str(overlay))
        machine = (
            "-machine",
            "accel=tcg",
            "-nodefaults",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-no-reboot",
        )
        drive = f"file={overlay},format=qcow2,if=ide,cache=writethrough"
        leave = ("-device", "isa-debug-exit,iobase=0xf4,iosize=4")
        guest = subprocess.run(
            [tool("qemu-system-x86_64"), *machine, "-drive", drive, *leave],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
        assert "booted from a backup" in guest.stdout, guest
        assert guest.returncode == 33, guest
        run("qemu-img", "convert", "-O", "raw", str(overlay), str(out))
        assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(disk.raw), uri)
    after = out.read_bytes()
    assert after[512:1024] == after[:512] == disk.states[0][:512]
    return "booted, and wrote to its overlay"
