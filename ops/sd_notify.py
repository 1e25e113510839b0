"""Telling systemd how the agent stands.

*Source:* sd_notify(3): one datagram of `NAME=value` lines to the Unix socket that NOTIFY_SOCKET names; a name that
begins with @ lies in the abstract namespace.
"""

from __future__ import annotations

import os
import socket


def tell_systemd(*lines: str) -> None:
    """Send lines such as READY=1, STOPPING=1 or WATCHDOG=1; nothing happens where nobody listens.

    Args:
        lines: what to say, all at once.

    Crash: it was said or not.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as speaker:
        try:
            speaker.sendto("\n".join(lines).encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError:
            return  # it restarts, or was never there; the agent goes on either way
