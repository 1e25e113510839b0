"""The pulse of a process: a file in the state directory that is touched while its work goes on.

STATE/pulse/lookout, STATE/pulse/worker        modification time: when it was last seen at work (machine)
"""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

FOLDER: Final = "pulse"
LOOKOUT, WORKER = "lookout", "worker"


def beat(state_dir: Path, name: str) -> None:
    """Leave a sign of life; where that cannot be done, the process is taken for silent.

    Crash: it is there or not.
    """
    path = state_dir / FOLDER / name
    with contextlib.suppress(OSError):
        try:
            os.utime(path)
        except FileNotFoundError:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.touch(mode=0o600)


def last_beat(state_dir: Path, name: str) -> datetime | None:
    """Return when a process was last seen at work (machine); None if it never was."""
    try:
        return datetime.fromtimestamp((state_dir / FOLDER / name).stat().st_mtime, UTC)
    except OSError:
        return None
