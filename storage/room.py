"""How much room is left where a folder lies."""

from __future__ import annotations

import os
from pathlib import Path

from storage.publish import storage_errors


def free_percent(folder: Path) -> float:
    """Tell what share of a folder's device is free to us, in percent of its size.

    Args:
        folder: any folder on it.

    Raises:
        StorageError: that cannot be told.
    """
    with storage_errors(folder):
        found = os.statvfs(folder)
    return 100.0 if found.f_blocks == 0 else 100.0 * found.f_bavail / found.f_blocks
