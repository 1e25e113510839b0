"""What an NTFS file system does not use, by the tools of ntfs-3g.

`ntfsinfo` tells the geometry and the flags of the volume, `ntfscat` prints its bitmap, its log and what Windows keeps
when it hibernates, and `ntfsresize --info`, which only reads, proves that each cluster of each file is marked in the
bitmap. The backup of the boot sector lies behind the last cluster, so it always counts as used.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO, Final

import numpy as np

from policies.errors import SourceError
from storage.free_ranges import FreeRanges
from storage.ntfs_log import LOG_HEAD_BYTES, is_clean_log
from storage.source import Ranges
from storage.tool_output import first_of_output, tool_output

_PACKAGE: Final = "ntfs-3g"
_FIELD: Final = re.compile(rb"\t([A-Z][A-Za-z ]+): (.*)\n")
_MODIFIED_BY_CHKDSK: Final = 0x8000
_LOG, _BITMAP = "2", "6"
_HIBERNATION_FILE: Final = "hiberfil.sys"
_AWAKE: Final = (b"\0\0\0\0", b"wake", b"WAKE")
_HIBERNATION_HEAD_BYTES: Final = 4096
_PIECE_BYTES: Final = 1 << 20


def free_of_ntfs(path: Path) -> Ranges:
    """List what an NTFS file system does not use, as ranges of bytes.

    Args:
        path: the volume, which must not change meanwhile.

    Raises:
        ConfigurationError: a tool is missing.
        SourceError: its maps cannot be relied on.
    """
    cluster_bytes, clusters, free_clusters = _geometry(path)
    if not is_clean_log(
        first_of_output("ntfscat", "-i", _LOG, str(path), package=_PACKAGE, count=LOG_HEAD_BYTES)
    ):
        raise SourceError(
            "its log holds changes: Windows did not dismount it, or keeps some of it in its cache"
        )
    _check_awake(path)
    _check_bitmap(path)
    free = FreeRanges(cluster_bytes)
    with tool_output("ntfscat", "-i", _BITMAP, str(path), package=_PACKAGE) as bitmap:
        _read_bitmap(bitmap, clusters, free)
    return free.in_bytes(free_clusters, clusters)


def _geometry(path: Path) -> tuple[int, int, int]:
    """Return size of a cluster in bytes, number of clusters, number of free ones.

    Raises:
        SourceError: the volume is marked as not in order, or this version of NTFS is not known.
    """
    fields: dict[bytes, bytes] = {}
    with tool_output("ntfsinfo", "-m", str(path), package=_PACKAGE) as lines:
        for line in lines:
            if (found := _FIELD.fullmatch(line)) and fields.setdefault(found[1], found[2]) != found[2]:
                fields[found[1]] = b"told twice"
    try:
        version, flags = fields[b"Volume Version"].split()[0], int(fields[b"Volume Flags"].split()[0], 16)
        names = (b"Cluster Size", b"Volume Size in Clusters", b"Free Clusters")
        cluster_bytes, clusters, free_clusters = (int(fields[name].split()[0]) for name in names)
    except (KeyError, ValueError, IndexError) as error:
        raise SourceError("ntfsinfo tells too little of it") from error
    if flags & ~_MODIFIED_BY_CHKDSK:
        raise SourceError("it is marked to be checked or changed by Windows")
    if version not in (b"3.0", b"3.1"):
        raise SourceError("its version of NTFS is not known")
    return cluster_bytes, clusters, free_clusters


def _check_awake(path: Path) -> None:
    """Raise SourceError if Windows hibernates: it goes on later with what it remembers of the volume."""
    arguments = (str(path), _HIBERNATION_FILE)
    try:
        head = first_of_output("ntfscat", *arguments, package=_PACKAGE, count=_HIBERNATION_HEAD_BYTES)
    except SourceError as error:
        if "No such file or directory" in error.message:
            return
        raise
    if len(head) < _HIBERNATION_HEAD_BYTES or head[:4] not in _AWAKE:
        raise SourceError("Windows hibernates on it")


def _check_bitmap(path: Path) -> None:
    """Raise SourceError if the bitmap does not say just what the files' own lists of clusters say."""
    try:
        with tool_output("ntfsresize", "--info", "--no-progress-bar", str(path), package=_PACKAGE) as lines:
            for _ in lines:
                pass
    except SourceError as error:
        raise SourceError("ntfsresize --info does not find it consistent") from error


def _read_bitmap(bitmap: IO[bytes], clusters: int, free: FreeRanges) -> None:
    """Collect the runs of zeros of a bitmap, lowest bit first."""
    at = 0
    while piece := bitmap.read(_PIECE_BYTES):
        bits = np.unpackbits(np.frombuffer(piece, np.uint8), bitorder="little")[: max(0, clusters - at)]
        edges = np.flatnonzero(np.diff(bits, prepend=np.uint8(1), append=np.uint8(1)))
        free.add_all(edges.astype(np.int64).reshape(-1, 2) + at)
        at += len(bits)
    if at != clusters:
        raise SourceError("its bitmap is too short")
