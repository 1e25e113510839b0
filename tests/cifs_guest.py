"""A guest whose kernel mounts a share of this machine by itself, and runs a program of the tests on it. Needs root.

It sees all files of this machine, read-only, through virtiofs, and one folder to write to. It is a processor that a
program pretends to be, so that it starts anywhere.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tests.commands import tool
from tests.linux_guest import unpacked
from tests.smb_share import PASSWORD, SHARE, USER, SmbServer
from tests.waiting import wait_for

MOUNTED: Final = Path("/run/share")
"""Where the guest mounts the share."""

UP: Final = "The guest is up"
OVER: Final = "The guest is done"
_ROOT: Final = Path(__file__).parents[1]
_UP_WITHIN_S: Final = 90.0
_MODULES: Final = (
    *("virtio_pci", "virtio_net", "virtiofs"),
    *("cmac", "ccm", "gcm", "ctr", "ghash_generic", "sha512_generic", "md4", "ecb", "nls_utf8", "cifs"),
)
_INIT: Final = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
exec > /dev/ttyS0 2>&1
for module in /modules/*; do $b insmod $module; done
$b ip link set lo up
$b ip link set eth0 up
$b ip addr add 10.0.2.15/24 dev eth0
$b mount -t virtiofs -o ro files /host
$b mount -t devtmpfs dev /host/dev
$b mount -t proc proc /host/proc
$b mount -t tmpfs run /host/run
$b mkdir /host/run/share
$b mount -t virtiofs work /host{work}
echo "{up}"
$b chroot /host /bin/sh {work}/program
echo "{over}"
$b poweroff -f
"""
_PROGRAM: Final = """
export HOME=/run TMPDIR=/run PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONPATH={root} PYTHONDONTWRITEBYTECODE=1
export NUMBA_CACHE_DIR={work}/numba NUMBA_CPU_NAME=generic NUMBA_CPU_FEATURES=
mount -i -t cifs //10.0.2.2/{share} {mounted} -o port={port},username={user},password={password},vers=3.1.1 || exit
cd {root}
{python} -m {module} {arguments}
umount {mounted}
"""


def _module_files(folder: Path) -> dict[str, Path]:
    return {path.stem.replace("-", "_"): path for path in folder.rglob("*.ko")}


def _in_order(files: dict[str, Path], names: tuple[str, ...], found: list[str]) -> list[str]:
    """List modules, what they need before them; what is missing is part of the kernel."""
    for name in names:
        if name not in files or name in found:
            continue
        match = re.search(rb"\0depends=([^\0]*)\0", files[name].read_bytes())
        needed = match[1].decode().split(",") if match else []
        _in_order(files, tuple(one.replace("-", "_") for one in needed if one), found)
        found.append(name)
    return found


def _make_initrd(folder: Path, work: Path) -> Path:
    """Make the file system that the kernel starts from."""
    tree, packages = folder / "initrd", unpacked()
    for name in ("bin", "dev", "proc", "host", "modules"):
        (tree / name).mkdir(parents=True)
    (tree / "bin" / "busybox").write_bytes((packages / "bin" / "busybox").read_bytes())
    (tree / "init").write_text(_INIT.format(work=work, up=UP, over=OVER))
    for path in (tree / "bin" / "busybox", tree / "init"):
        path.chmod(0o755)
    files = _module_files(packages / "lib" / "modules")
    for number, name in enumerate(_in_order(files, _MODULES, [])):
        (tree / "modules" / f"{number:02}-{name}").write_bytes(files[name].read_bytes())
    names = "\n".join(["."] + [str(path.relative_to(tree)) for path in sorted(tree.rglob("*"))])
    busybox = str(packages / "bin" / "busybox")
    packed = folder / "initrd.cpio"
    with packed.open("wb") as out:
        command = [busybox, "cpio", "-o", "-H", "newc"]
        subprocess.run(
            command, input=names.encode(), stdout=out, stderr=subprocess.DEVNULL, cwd=tree, check=True
        )
    return packed


def _virtiofsd() -> str:
    places = (Path("/usr/libexec/virtiofsd"), Path("/usr/lib/qemu/virtiofsd"))
    return next((str(path) for path in places if path.exists()), "") or tool("virtiofsd")


@contextlib.contextmanager
def _shown(folder: Path, socket: Path) -> Iterator[None]:
    """Show a folder to a guest."""
    words = ["-o", f"source={folder},sandbox=chroot,cache=auto"]
    running = subprocess.Popen(
        [tool("setpriv"), "--pdeathsig", "KILL", _virtiofsd(), f"--socket-path={socket}", *words],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: socket.exists() or running.poll() is not None, "virtiofsd")
        yield
    finally:
        running.kill()
        running.wait()
        socket.unlink(missing_ok=True)


def environment(work: Path) -> dict[str, str]:
    """Return what makes compiled kernels that the guest's processor can run, and keeps them for it."""
    return {"NUMBA_CACHE_DIR": str(work / "numba"), "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}


def run_in_guest(
    server: SmbServer,
    work: Path,
    module: str,
    arguments: tuple[str, ...],
    *,
    meanwhile: Callable[[], object],
    patience_s: float = 600.0,
) -> str:
    """Mount the share of a server in a guest, and run a module there.

    Args:
        server: the server.
        work: a folder that the guest can write to, at the same place.
        module: name of the module.
        arguments: its arguments.
        meanwhile: called again and again.
        patience_s: so long it may take.

    Returns:
        What was said on its console.
    """
    folder = work.parent / "guest"
    folder.mkdir()
    words = {"share": SHARE, "user": USER, "password": PASSWORD, "port": server.port, "module": module}
    words |= {"root": _ROOT, "work": work, "python": sys.executable, "mounted": MOUNTED}
    (work / "program").write_text(_PROGRAM.format(arguments=" ".join(arguments), **words))
    initrd, console = _make_initrd(folder, work), folder / "console"

    def said(what: str) -> bool:
        meanwhile()
        return running.poll() is not None or what in console.read_text(errors="replace")

    for last in (
        False,
        False,
        True,
    ):  # a guest without a processor of its own hangs now and then while it starts
        with _shown(Path("/"), folder / "files"), _shown(work, folder / "work"):
            running = subprocess.Popen(_command(folder, initrd, console), stdin=subprocess.DEVNULL)
            try:
                with contextlib.suppress(*(() if last else (AssertionError,))):
                    wait_for(lambda: said(UP), f"the guest, which says {console}", _UP_WITHIN_S)
                    wait_for(lambda: said(OVER), "the end of the guest", patience_s)
                    break
            finally:
                running.kill()
                running.wait()
    return console.read_text(errors="replace")


def _command(folder: Path, initrd: Path, console: Path) -> list[str]:
    (kernel,) = (unpacked() / "boot").glob("vmlinuz-*")
    console.write_text("")
    shown = []
    for name in ("files", "work"):
        shown += ["-chardev", f"socket,id={name},path={folder / name}"]
        shown += ["-device", f"vhost-user-fs-pci,chardev={name},tag={name}"]
    return [
        *(tool("setpriv"), "--pdeathsig", "KILL", tool("qemu-system-x86_64")),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *(
            "-machine",
            "q35,accel=tcg,memory-backend=memory",
            "-cpu",
            "max",
            "-smp",
            str(min(2, os.cpu_count() or 1)),
        ),
        *("-m", "1536M", "-object", "memory-backend-memfd,id=memory,size=1536M,share=on"),
        *("-kernel", str(kernel), "-initrd", str(initrd), "-append", "console=ttyS0 panic=-1 quiet"),
        *("-serial", f"file:{console}", "-nic", "user,model=virtio-net-pci"),
        *shown,
    ]
