"""Serving a point to programs of our own, from a thread, on a socket that nobody else finds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from hsr.serving.haggling import Export
from hsr.serving.readable import Readable
from hsr.serving.server import NbdServer
from policies.errors import RollforwardError
from storage.scratch import scratch_folder

_log = structlog.get_logger("serve")


class Served:
    """A point that is being served.

    Attributes:
        socket: where.
        failure: the first error that reading it met; a client learns no more than that there was one.
    """

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.failure: RollforwardError | None = None

    def note(self, error: RollforwardError) -> None:
        """Keep the first error."""
        if self.failure is None:
            self.failure = error
            _log.debug("read_failed", path=error.path, offset=error.offset, text=str(error))


@contextmanager
def served_in_background(point: Readable, kind: str) -> Iterator[Served]:
    """Serve a volume or a disk for as long as the context lasts.

    Args:
        point: what is served.
        kind: what for: a word of small letters.

    Yields:
        Where; the export has no name.

    Raises:
        ConfigurationError: no socket can be made.

    Crash: a scratch folder, which the next command sweeps away.
    """
    with scratch_folder(kind) as folder:
        served = Served(folder / "nbd.sock")
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_run, args=(loop,), name=f"rollforward-{kind}", daemon=True)
        try:
            thread.start()  # a signal may come while it does: then the loop ends as soon as it has begun
            offered = Export("", kind, point.size_bytes, point.block_bytes)

            async def begin() -> NbdServer:
                server = NbdServer(point, offered, on_failure=served.note)
                await server.listen_on_socket(served.socket)
                return server

            server = asyncio.run_coroutine_threadsafe(begin(), loop).result()
            try:
                yield served
            finally:
                asyncio.run_coroutine_threadsafe(server.close(), loop).result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            with suppress(RuntimeError):  # it has not begun
                thread.join()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is stopped, and close it: from outside, an ended thread looks like one that has not begun."""
    try:
        loop.run_forever()
    finally:
        loop.close()
