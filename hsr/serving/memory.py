"""How much memory decoded blocks may take, where nobody says."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_CACHE_BYTES_MAX: Final = 1 << 30
_CACHE_BYTES_MIN: Final = 16 << 20
_SHARE: Final = 16


def default_cache_bytes() -> int:
    """Return a sixteenth of the memory that there is for us, 16 MiB to 1 GiB.

    That is what the machine has available, and no more than any control group of ours allows.
    """
    return min(max(available_bytes() // _SHARE, _CACHE_BYTES_MIN), _CACHE_BYTES_MAX)


def available_bytes(proc: Path = Path("/proc"), control_groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how much memory this process may take, in bytes.

    Args:
        proc: where the kernel tells of processes.
        control_groups: where it tells of control groups.

    Source: proc(5), "/proc/meminfo"; cgroups(7), "/proc/[pid]/cgroup"; the kernel's documentation on control groups,
    "memory.max" (version 2) and "memory.limit_in_bytes" (version 1).
    """
    return min([_machine_bytes(proc), *_group_limits(proc, control_groups)])


def _machine_bytes(proc: Path) -> int:
    with contextlib.suppress(OSError):
        for line in (proc / "meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return int(rest.split()[0]) << 10
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _group_limits(proc: Path, root: Path) -> Iterator[int]:
    """Yield the limits of our control groups and of those around them; a container sees its own as the root."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            mount, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # "max", or not seen from here
                yield int((folder / name).read_text())
            if folder == mount:
                break
