"""What is mounted, as the kernel's table has it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_OCTAL: Final = re.compile(rb"\\([0-7]{3})")
"""How the kernel writes blanks, line ends and backslashes in its table; all else is there as it is."""


@dataclass(frozen=True, slots=True)
class Mount:
    """Something mounted.

    Attributes:
        at: where.
        kind: type of the file system.
        source: what is mounted, in words of the file system.
    """

    at: Path
    kind: str
    source: str


def mounts() -> list[Mount]:
    """List what this process sees mounted, in the order in which it was done.

    Source: proc(5), "/proc/[pid]/mountinfo".
    """
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields, _, rest = line.partition(b" - ")
        kind, source = rest.split()[:2]
        found.append(Mount(Path(_plain(fields.split()[4])), os.fsdecode(kind), _plain(source)))
    return found


def _plain(field: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda octal: bytes([int(octal[1], 8)]), field))
