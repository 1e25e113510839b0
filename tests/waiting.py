"""Waiting for a condition: no test sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 60.0
"""A condition that takes longer is taken as failed; far more than any takes on a busy machine."""


def wait_for(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait until a condition holds; fail with `what` if it does not in time."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience_s:.0f} s in vain for {what}")
        time.sleep(0.01)
