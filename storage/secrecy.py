"""Keeping keys and passwords out of core dumps, once a process has one."""

from __future__ import annotations

import contextlib
import ctypes
import resource
from functools import cache
from typing import Final

_PR_SET_DUMPABLE: Final = 4


@cache
def leave_no_dumps() -> None:
    """Have the system write no memory of this process to disk when it crashes, and show none to debuggers.

    Two ways, since neither does for all: the limit counts where the kernel itself writes a file, the attribute also
    where it hands the memory to a program that collects dumps. Programs that are started later have the limit, too.
    Where a system refuses, it stays as it was: this is one line of defence, not the only one.
    """
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
