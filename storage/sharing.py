"""What is asked of a share again, because it may refuse it for a while."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Final

from storage.mounts import Mount

_HELD: Final = {errno.EACCES, errno.EBUSY, errno.EPERM, errno.ETXTBSY}
_PATIENCE_S: Final = 5.0
"""Whoever reads a small file has it open for milliseconds; a client may close it a second later."""

_WAIT_S: Final = 0.05


def insist(deed: Callable[[], object], share: Mount | None) -> None:
    """Do something with the name of a file; again for some seconds, if a share says that somebody has the file open.

    Args:
        deed: renames or removes it, or does nothing.
        share: where; None for a disk of this machine, which is asked once.

    Raises:
        OSError: that of the deed.
    """
    give_up_at = time.monotonic() + _PATIENCE_S
    while True:
        try:
            deed()
        except OSError as error:
            if share is None or error.errno not in _HELD or time.monotonic() > give_up_at:
                raise
            time.sleep(_WAIT_S)
        else:
            return
