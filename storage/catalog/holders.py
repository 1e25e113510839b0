"""Who holds a lease or works on an attempt, and whether that process still lives.

Between machines only time can tell that a holder is gone. On its own machine a process is known exactly: by
its number, the moment it started and the boot it belongs to. So work of a killed worker is taken up at
once.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Holder:
    """One process on one machine.

    Attributes:
        host: name of the machine.
        boot: identity of the boot.
        pid: process number.
        started_ticks: when the process started, clock ticks since boot.
    """

    host: str
    boot: str
    pid: int
    started_ticks: int

    @classmethod
    def of_this_process(cls) -> Self:
        """Return the holder that this process is."""
        return cls(socket.gethostname(), _boot_id(), os.getpid(), _started_ticks(os.getpid()) or 0)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the holder that `str` wrote."""
        host, boot, pid, started = text.rsplit(" ", 3)
        return cls(host, boot, int(pid), int(started))

    def __str__(self) -> str:
        """Write the holder on one line, for a column."""
        return f"{self.host} {self.boot} {self.pid} {self.started_ticks}"

    def is_gone(self) -> bool:
        """Tell whether the process is known to have ended; False when it lives or cannot be known."""
        if self.host != socket.gethostname():
            return False
        return self.boot != _boot_id() or _started_ticks(self.pid) != self.started_ticks


@cache
def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "unknown"


def _started_ticks(pid: int) -> int | None:
    """Return when a process started, in ticks since boot; None if there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
