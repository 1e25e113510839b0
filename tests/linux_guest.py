"""A small Linux that starts from a volume: a kernel of Debian, extlinux, busybox, and an init of our own, on ext4.

It says on its console which state of the volume it found, writes to the volume, and switches itself off. The volume is
one partition's worth: a disk is made of it by wrapping. It hangs on NVMe, for which the kernel needs no module.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from tests.commands import run, tool
from tests.loop import loop_device

BUS: Final = "nvme"
SIZE_BYTES: Final = 96 << 20
_EXTLINUX: Final = Path("usr/bin/extlinux")
_BUSYBOX: Final = Path("bin/busybox")

_INIT: Final = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
exec > /dev/ttyS0
/bin/busybox echo "The guest is up: $(/bin/busybox cat /state)"
/bin/busybox date > /written
/bin/busybox sync
/bin/busybox poweroff -f
"""
_CONFIGURATION: Final = """DEFAULT linux
PROMPT 0
LABEL linux
  KERNEL /boot/vmlinuz
  APPEND console=ttyS0 root=/dev/nvme0n1p1 rw init=/init panic=-1
"""


def marker(number: int) -> str:
    """Say what the guest says of a state."""
    return f"The guest is up: state {number}."


def packages_folder() -> Path:
    """Return where `.ci/debian-packages` keeps what the guest is made of: fetched once, never installed."""
    return Path(os.environ.get("ROLLFORWARD_GUEST", Path(tempfile.gettempdir()) / "rollforward-guest"))


def unpacked() -> Path:
    """Return a folder with the files of the packages in it."""
    whole = packages_folder() / "whole"
    assert whole.is_dir(), f"{whole} is not there; `.ci/debian-packages guest` fetches what belongs in it"
    return whole


def make_volume(path: Path) -> None:
    """Make the volume, at state 0. Needs root, since extlinux installs itself into what is mounted."""
    packages = unpacked()
    (kernel,) = (packages / "boot").glob("vmlinuz-*")
    with path.open("wb") as file:
        file.truncate(SIZE_BYTES)
    run("mkfs.ext4", "-q", "-F", "-O", "^64bit,^metadata_csum", str(path))
    mounted = path.with_suffix(".mounted")
    mounted.mkdir()
    with loop_device(path) as device:
        run("mount", str(device), str(mounted))
        try:
            for name in ("boot", "bin", "dev", "proc"):
                (mounted / name).mkdir()
            shutil.copyfile(kernel, mounted / "boot" / "vmlinuz")
            shutil.copy(packages / _BUSYBOX, mounted / "bin" / "busybox")
            (mounted / "boot" / "extlinux.conf").write_text(_CONFIGURATION)
            (mounted / "init").write_text(_INIT)
            (mounted / "init").chmod(0o755)
            (mounted / "state").write_text("state 0.\n")
            run(str(packages / _EXTLINUX), "--install", str(mounted / "boot"))
        finally:
            run("umount", str(mounted))
    mounted.rmdir()


def set_state(path: Path, number: int) -> None:
    """Change the volume: the guest will say so."""
    fresh = path.with_suffix(".state")
    fresh.write_text(f"state {number}.\n")
    for command in ("rm /state", f"write {fresh} /state"):
        run("debugfs", "-w", "-R", command, str(path))
    fresh.unlink()
    assert (
        subprocess.run([tool("e2fsck"), "-fn", str(path)], capture_output=True, check=False).returncode == 0
    )
