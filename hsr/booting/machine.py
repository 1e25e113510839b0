"""What a virtual machine is made of, and how qemu is told."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from hsr.exchange.qemu import find_tool
from policies.errors import ConfigurationError

DISK_NODE: Final = "disk0"
"""What qemu calls the disk that the guest sees, overlay and all."""

_KVM_GET_API_VERSION: Final = 0xAE00
_KVM_CREATE_VM: Final = 0xAE01
_KVM_VERSION: Final = 12
_VNC_FIRST_PORT: Final = 5900
_UEFI: Final = (
    (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")),
    (Path("/usr/share/OVMF/OVMF_CODE.fd"), Path("/usr/share/OVMF/OVMF_VARS.fd")),
    (Path("/usr/share/edk2/ovmf/OVMF_CODE.fd"), Path("/usr/share/edk2/ovmf/OVMF_VARS.fd")),
)
"""Where distributions put UEFI firmware: its code, and what it remembers before the first start."""


class Accelerator(StrEnum):
    """What runs the guest's instructions: the processor itself, or a program."""

    KVM = "kvm"
    TCG = "tcg"


class Bus(StrEnum):
    """What the disk hangs on."""

    SATA = "sata"
    VIRTIO = "virtio"
    SCSI = "scsi"
    NVME = "nvme"
    IDE = "ide"


class Firmware(StrEnum):
    """What starts the disk."""

    BIOS = "bios"
    UEFI = "uefi"


@dataclass(frozen=True, slots=True)
class Machine:
    """A virtual machine.

    Attributes:
        memory_mib: its memory, in MiB.
        processors: how many it has.
        bus: what its disk hangs on.
        firmware: what starts the disk.
        accelerator: what runs it; None for the best that works here.
        network: None for none at all, `user` for what this user may reach, else the name of a bridge.
        display: `none`, or a window of qemu's.
        vnc: a loopback address and port; None for no VNC.
        serial: file that gets what the guest says on its first serial port; None for none.
        serial_here: whether the serial port is the terminal.
        firmware_log: file that gets what the firmware says; None for none.
        control: sockets on which qemu is to be controlled by QMP.
        waits: whether it does nothing until it is told to go.
        stays: whether it stands still when the guest switches itself off, rather than to end.
        may_reset: whether the guest may restart; else that counts as switching itself off.
    """

    memory_mib: int = 2048
    processors: int = 2
    bus: Bus = Bus.SATA
    firmware: Firmware = Firmware.BIOS
    accelerator: Accelerator | None = None
    network: str | None = None
    display: str = "none"
    vnc: tuple[str, int] | None = None
    serial: Path | None = None
    serial_here: bool = False
    firmware_log: Path | None = None
    control: tuple[Path, ...] = ()
    waits: bool = False
    stays: bool = False
    may_reset: bool = True


_DISK_DEVICES: Final[Mapping[Bus, tuple[str, ...]]] = {
    Bus.SATA: ("-device", "ide-hd,bus=ide.0,{disk}"),
    Bus.IDE: ("-device", "ide-hd,bus=ide.0,{disk}"),
    Bus.VIRTIO: ("-device", "virtio-blk-pci,{disk}"),
    Bus.SCSI: ("-device", "virtio-scsi-pci", "-device", "scsi-hd,{disk}"),
    Bus.NVME: ("-device", "nvme,serial=rollforward,{disk}"),
}


def promising_accelerators() -> tuple[Accelerator, ...]:
    """Return what to try, the best first: KVM only if it makes machines. Even then qemu may find it lacking."""
    with contextlib.suppress(OSError):
        kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        try:
            if fcntl.ioctl(kvm, _KVM_GET_API_VERSION) == _KVM_VERSION:
                os.close(fcntl.ioctl(kvm, _KVM_CREATE_VM))
                return Accelerator.KVM, Accelerator.TCG
        finally:
            os.close(kvm)
    return (Accelerator.TCG,)


def machine_command(
    machine: Machine, accelerator: Accelerator, point: Path, overlay: str, folder: Path
) -> list[str]:
    """Return the command line of a machine.

    Args:
        machine: what it is made of.
        accelerator: what runs it.
        point: the NBD socket from which its disk is read.
        overlay: the qcow2 file that it is written to.
        folder: for what firmware remembers while the machine runs.

    Raises:
        ConfigurationError: qemu, or the firmware, is not installed.
    """
    server = {"type": "unix", "path": str(point)}
    nodes: list[dict[str, object]] = [
        {"driver": "nbd", "node-name": "point", "server": server, "read-only": True},
        {"driver": "file", "node-name": "overlay", "filename": overlay, "discard": "unmap"},
        {
            "driver": "qcow2",
            "node-name": DISK_NODE,
            "file": "overlay",
            "backing": "point",
            "discard": "unmap",
        },
    ]
    disk = f"drive={DISK_NODE},bootindex=0"
    return [
        find_tool("qemu-system-x86_64"),
        *("-nodefaults", "-no-user-config", "-name", "rollforward"),
        *("-machine", f"{'pc' if machine.bus is Bus.IDE else 'q35'},accel={accelerator}"),
        *("-cpu", "host" if accelerator is Accelerator.KVM else "max"),
        *("-smp", str(machine.processors), "-m", f"{machine.memory_mib}M"),
        *_confinement(machine),
        *_firmware(machine, folder),
        *(word for node in nodes for word in ("-blockdev", json.dumps(node))),
        *(word.format(disk=disk) for word in _DISK_DEVICES[machine.bus]),
        *_screen(machine),
        *_ports(machine),
        *_network(machine),
        *(("-S",) if machine.waits else ()),
        *(("-action", "shutdown=pause") if machine.stays else ()),
        *(() if machine.may_reset else ("-action", "reboot=shutdown")),
    ]


def _confinement(machine: Machine) -> tuple[str, ...]:
    """Forbid what qemu does not need; a bridge is opened by a helper with more rights, windows by many libraries."""
    if machine.display != "none" or machine.network not in (None, "user"):
        return ()
    return ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")


def _firmware(machine: Machine, folder: Path) -> list[str]:
    if machine.firmware is Firmware.BIOS:
        return []
    for code, memory in _UEFI:
        if code.exists() and memory.exists():
            own = Path(shutil.copyfile(memory, folder / "firmware-memory"))
            nodes = (
                {"driver": "file", "node-name": "firmware", "filename": str(code), "read-only": True},
                {"driver": "file", "node-name": "memory", "filename": str(own)},
            )
            blocks = [word for node in nodes for word in ("-blockdev", json.dumps(node))]
            return [*blocks, "-machine", "pflash0=firmware,pflash1=memory"]
    raise ConfigurationError("UEFI firmware is not installed", hint="On Debian, the package is ovmf.")


def _screen(machine: Machine) -> list[str]:
    words = ["-vga", "std", "-display", machine.display]
    if machine.vnc is not None:
        host, port = machine.vnc
        shown = f"[{host}]" if ":" in host else host
        words += ["-vnc", f"{shown}:{port - _VNC_FIRST_PORT}"]
    if machine.vnc is not None or machine.display != "none":
        words += ["-device", "qemu-xhci", "-device", "usb-tablet"]
    return words


def _ports(machine: Machine) -> list[str]:
    words = []
    if machine.serial_here:
        words += ["-serial", "stdio"]
    elif machine.serial is not None:
        words += ["-chardev", f"file,id=serial,path={_quoted(machine.serial)}", "-serial", "chardev:serial"]
    if machine.firmware_log is not None:
        words += ["-chardev", f"file,id=firmware,path={_quoted(machine.firmware_log)}"]
        words += ["-device", "isa-debugcon,iobase=0x402,chardev=firmware"]
    for number, socket in enumerate(machine.control):
        words += ["-chardev", f"socket,id=control{number},server=on,wait=off,path={_quoted(socket)}"]
        words += ["-mon", f"chardev=control{number},mode=control"]
    return words


def _network(machine: Machine) -> list[str]:
    if machine.network is None:
        return ["-nic", "none"]
    model = "virtio-net-pci" if machine.bus is Bus.VIRTIO else "e1000"
    if machine.network == "user":
        return ["-nic", f"user,model={model}"]
    return ["-nic", f"bridge,br={machine.network.replace(',', ',,')},model={model}"]


def _quoted(path: Path) -> str:
    """Write a path as qemu's options take it: a comma is doubled."""
    return str(path.absolute()).replace(",", ",,")
