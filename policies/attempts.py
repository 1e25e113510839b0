"""When work that went wrong is tried again, and when it is left to a person.

A failure is an attempt that ended with an error; a crash is one whose process was gone before it ended.
Both are counted for each piece of work apart, so that a file which always kills its reader stops nothing
else. A process that ends takes all its work with it, whichever of it was to blame; so the try that decides is
made alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

FAILURE_LIMIT: Final = 3
"""After so many failures the work is quarantined, unless the trouble may pass by itself."""

CRASH_LIMIT: Final = 3
"""After so many crashes the work is quarantined."""

FIRST_WAIT: Final = timedelta(seconds=30)
"""Wait after the first failure; each further one waits four times as long."""

LONGEST_WAIT: Final = timedelta(hours=1)
"""No wait is longer."""


@dataclass(frozen=True, slots=True)
class AttemptVerdict:
    """What becomes of work that went wrong.

    Attributes:
        quarantined: whether it is not tried again by itself.
        wait: how long until the next try; zero when quarantined.
    """

    quarantined: bool
    wait: timedelta


def must_be_alone(crashes: int) -> bool:
    """Tell whether work is to be tried with nothing beside it in its process: one more crash sets it aside.

    Args:
        crashes: attempts of it that never ended.
    """
    return crashes >= CRASH_LIMIT - 1


def judge_attempts(failures: int, crashes: int, *, may_pass: bool = False) -> AttemptVerdict:
    """Decide when to try again.

    A first crash is tried again at once: most come from a machine that was switched off, not from the work.

    Args:
        failures: attempts of this work that ended with an error.
        crashes: attempts of it that never ended.
        may_pass: whether the last failure lay in surroundings that may recover (a full disk, a share that
            sleeps); then it is tried for as long as it takes.

    Returns:
        The wait before the next try, or quarantine.
    """
    if crashes >= CRASH_LIMIT or (failures >= FAILURE_LIMIT and not may_pass):
        return AttemptVerdict(quarantined=True, wait=timedelta(0))
    troubles = failures + max(crashes - 1, 0)
    if troubles == 0:
        return AttemptVerdict(quarantined=False, wait=timedelta(0))
    wait: timedelta = min(FIRST_WAIT * 4 ** min(troubles - 1, 10), LONGEST_WAIT)
    return AttemptVerdict(quarantined=False, wait=wait)
