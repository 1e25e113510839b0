"""ShadowProtect's own container: files that are looked after without being read.

No public specification describes it, so nothing in it is read but its first bytes. Such a file is catalogued by its
name, which is all that tells where it leads, and proven by its `.md5` side file (`storage.md5_check`). It is never
merged, restored or served, and nothing is ever removed because of what its name promises.

    offset  size  meaning
    0       4     SPVB or SPFI

Source: these bytes are what such files are seen to begin with; there is no document.
"""

from __future__ import annotations

from typing import Final

from policies.errors import ForeignContainerError
from storage.stored_file import StoredFile

MAGICS: Final = (b"SPVB", b"SPFI")
"""First bytes of a foreign file."""

PROBLEM: Final = "is in ShadowProtect's own container, which cannot be read"
HINT: Final = "It is kept and verified by its .md5 side file; only ShadowProtect can restore it or merge it."


def is_foreign(file: StoredFile) -> bool:
    """Tell whether an open file is in ShadowProtect's own container, by its first four bytes.

    Raises:
        StorageError: the medium fails.
    """
    size = len(MAGICS[0])
    return file.size_bytes >= size and bytes(file.read(0, size)) in MAGICS


def refuse_foreign(file: StoredFile) -> None:
    """Raise if a file that is to be read is in ShadowProtect's own container.

    Raises:
        ForeignContainerError: it is.
        StorageError: the medium fails.
    """
    if is_foreign(file):
        raise ForeignContainerError(PROBLEM, path=str(file.path), hint=HINT)
