"""Starting a program that dies when its parent does.

    python -P -m ops.tether PARENT_PID SIGNAL PROGRAM ARGUMENT…

asks the kernel to send this process a signal when its parent ends, however that ends, and becomes the program.
Nothing else is imported here, so that it takes a few milliseconds only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then become the program."""
    parent_pid, number, program, *arguments = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        sys.exit(f"tether: prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != int(parent_pid):
        sys.exit(0)  # the parent ended before we were tied to it
    os.execvp(program, [program, *arguments])  # noqa: S606 - no shell is meant


def tethered(*command: str, end: signal.Signals = signal.SIGKILL) -> list[str]:
    """Return the command line that starts a program tied to this process.

    Args:
        command: program and arguments.
        end: the signal that ends it.

    The tie is to the thread that starts it: start it from the main thread. Nothing is imported from the
    working directory, which may be anybody's.
    """
    return [sys.executable, "-P", "-m", "ops.tether", str(os.getpid()), str(int(end)), *command]


if __name__ == "__main__":
    main()
