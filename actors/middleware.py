"""What the broker does around jobs."""

from __future__ import annotations

import threading

from dramatiq import Broker, Middleware, Worker


class StopMiddleware(Middleware):
    """Tells running jobs, through an event that their progress reports look at, that the worker is to stop.

    Args:
        stopping: set when the worker begins to shut down.
    """

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """Set the event."""
        self._stopping.set()
