"""When a file that appears in a folder counts as landed.

Files come in many ways: renamed into place, written in place, copied for hours over a network that says
nothing about their end. Two proofs are taken: the file itself is complete (its trailer, which is written
last, belongs to its header), or it has stood still, neither its size nor its modification time changing,
for the settle time.
"""

from __future__ import annotations

from datetime import timedelta


def has_landed(*, complete: bool, unchanged_for: timedelta, settle_time: timedelta) -> bool:
    """Tell whether a file may be judged, be it good or bad.

    Args:
        complete: whether header and trailer are there and belong together.
        unchanged_for: how long size and modification time have been seen unchanged.
        settle_time: how long an incomplete file has to stand still.

    Returns:
        True once the file is complete or has stood still; before that it is somebody's half-written copy.
    """
    return complete or unchanged_for >= settle_time
