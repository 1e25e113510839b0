"""One limit for a whole exchange with a server, however slowly it answers."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def deadline(limit_s: float, connection: Callable[[], socket.socket | None]) -> Iterator[None]:
    """Shut a connection down when its time is over, so that whoever waits on it gets an error.

    Args:
        limit_s: longest time for the block.
        connection: gives the socket at that moment; None while there is none.

    Raises:
        TimeoutError: time was over before the block ended, whatever the block itself raised.
    """
    is_over = threading.Event()

    def end() -> None:
        is_over.set()
        held = connection()
        if held is not None:
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(limit_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as error:
        if is_over.is_set():
            raise TimeoutError(f"no answer within {limit_s:g} s") from error
        raise
    finally:
        timer.cancel()
