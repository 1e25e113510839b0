"""A catalogue whose server is away: said once, and once more when it is back."""

from __future__ import annotations

import threading
import time
from typing import Final

import structlog

from policies.errors import CatalogAwayError

AGAIN_S: Final = 1.0
"""A server that was away is asked again after so long."""


class Outage:
    """What one process knows of its catalogue's absence. Safe from any thread.

    Args:
        process: its name, for the log.
    """

    def __init__(self, process: str = "worker") -> None:
        self._log = structlog.get_logger(process)
        self._lock = threading.Lock()
        self._began_at: float | None = None
        self._ended_at = 0.0

    @property
    def lasts(self) -> bool:
        """Whether the catalogue was away when it was last asked."""
        return self._began_at is not None

    def begin(self, error: CatalogAwayError, asked_at_s: float) -> None:
        """Take note that the catalogue is away; say so unless that was said.

        Args:
            error: what was met.
            asked_at_s: when it was asked, on the monotonic clock: what was begun before it was last back is not told
                of again.
        """
        with self._lock:
            if self._began_at is not None or asked_at_s < self._ended_at:
                return
            self._began_at = time.monotonic()
        self._log.warning("the catalogue's server is away, work waits for it", reason=error.reason)

    def end(self, asked_at_s: float) -> None:
        """Take note that the catalogue answered; say so if it was away.

        Args:
            asked_at_s: when it was asked, on the monotonic clock: an answer to what was asked before it went says
                nothing.
        """
        with self._lock:
            if self._began_at is None or asked_at_s < self._began_at:
                return
            self._ended_at = time.monotonic()
            away_s, self._began_at = self._ended_at - self._began_at, None
        self._log.info("the catalogue's server is back", away_s=round(away_s, 1))
