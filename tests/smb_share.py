"""A share of a real smbd, mounted here: the server may be killed and started again. Needs root and FUSE.

smbd listens on loopback alone, at a port of its own, with settings, state and passwords below a folder of the test.
The share is mounted by smbnetfs, which asks a server for no sync; what only the kernel's own client does is tried in
`tests/cifs_guest.py`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Final, Self

from tests.commands import run, tool
from tests.waiting import wait_for

USER: Final = "root"
PASSWORD: Final = "not-a-secret"
SHARE: Final = "disks"

_SETTINGS: Final = """[global]
  server role = standalone server
  workgroup = TEST
  smb ports = {port}
  interfaces = lo
  bind interfaces only = yes
  map to guest = never
  load printers = no
  printing = bsd
  printcap name = /dev/null
  disable spoolss = yes
  log file = {home}/log.smbd
  pid directory = {home}
  lock directory = {home}
  state directory = {home}
  cache directory = {home}
  private dir = {home}
  ncalrpc dir = {home}/ncalrpc
  passdb backend = tdbsam:{home}/passdb.tdb
[{share}]
  path = {root}
  read only = no
"""


class SmbServer:
    """A real smbd with one share. A context manager.

    Args:
        home: an empty folder for all that it needs.
        root: the folder that is shared, if it is to be another than one in there.
    """

    def __init__(self, home: Path, root: Path | None = None) -> None:
        self.home, self.root = home / "smbd", root or home / "shared"
        for folder in (self.home, self.root):
            folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._settings = self.home / "smb.conf"
        words = {"port": self.port, "home": self.home, "share": SHARE, "root": self.root}
        self._settings.write_text(_SETTINGS.format(**words))
        self._running: subprocess.Popen[bytes] | None = None
        subprocess.run(
            [tool("smbpasswd"), "-c", str(self._settings), "-L", "-s", "-a", USER],
            input=f"{PASSWORD}\n{PASSWORD}\n".encode(),
            capture_output=True,
            check=True,
        )

    def start(self) -> Self:
        """Start it, and wait until it answers."""
        command = [tool("setpriv"), "--pdeathsig", "KILL", tool("smbd"), "-F", "--no-process-group"]
        with (self.home / "out").open("ab") as out:
            self._running = subprocess.Popen(
                [*command, "-s", str(self._settings)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        wait_for(self._answers, f"smbd, which says {(self.home / 'out').read_text()}")
        return self

    @property
    def is_running(self) -> bool:
        """Whether it was started, and not killed."""
        return self._running is not None

    def _answers(self) -> bool:
        with socket.socket() as asking:
            return asking.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """Kill it with -9, and all processes that serve somebody."""
        if self._running is not None:
            group = self._running.pid
            os.killpg(group, signal.SIGKILL)
            self._running.wait()
            self._running = None
            wait_for(lambda: _is_gone(group), "the end of all that served")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


def _is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


class MountedShare:
    """The share of a server, mounted. A context manager.

    Args:
        server: the server.
        home: an empty folder.
    """

    def __init__(self, server: SmbServer, home: Path) -> None:
        where = f"127.0.0.1:{server.port}"
        self._at, self._settings, self._server = home / "mnt", home / "smbnetfs", server
        self.folder = self._at / where / SHARE
        for folder in (self._at, self._settings):
            folder.mkdir()
        words = f'auth "{USER}" "{PASSWORD}"\nsmb_query_browsers "false"\n'
        (self._settings / "smbnetfs.conf").write_text(words)
        (self._settings / "smbnetfs.conf").chmod(0o600)
        self._running: subprocess.Popen[bytes] | None = None

    def mount(self) -> Self:
        """Mount it, and wait until it answers."""
        command = [tool("setpriv"), "--pdeathsig", "KILL", tool("smbnetfs"), str(self._at), "-f"]
        with (self._settings / "out").open("wb") as out:
            self._running = subprocess.Popen(
                [*command, "-o", f"config={self._settings / 'smbnetfs.conf'}"],
                env={**os.environ, "HOME": str(self._settings)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        wait_for(self._is_there, f"the share, {(self._settings / 'out').read_text()}")
        return self

    def _is_there(self) -> bool:
        with contextlib.suppress(OSError):
            return self._at.is_mount() and list(self.folder.iterdir()) is not None
        return False

    def unmount(self) -> None:
        """Take it away, whatever is open on it."""
        if self._running is not None:
            run("umount", "--lazy", str(self._at))
            self._running.kill()
            self._running.wait()
            self._running = None

    def back(self) -> None:
        """Have the server run, and the share answer: smbnetfs does not ask again for long what did not answer once."""
        if not self._server.is_running:
            self.unmount()
            self._server.start()
            self.mount()

    def __enter__(self) -> Self:
        return self.mount()

    def __exit__(self, *_: object) -> None:
        self.unmount()
