"""What an XFS file system does not use, by `xfs_db` and `xfs_logprint` of xfsprogs.

Each allocation group keeps two trees of its free extents, by place and by size. Both are listed and must agree, and
come to as much as the group's header counts. Blocks that are set aside for the trees themselves count as used.

The trees on the disk are true if the log holds nothing that would change them. The log of a file system that is
frozen, as for a snapshot, is never empty: it keeps a copy of the superblock, and nothing else.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from policies.errors import SourceError
from storage.free_ranges import FreeRanges
from storage.source import Ranges
from storage.tool_output import tool_output

_PACKAGE: Final = "xfsprogs"
_FIELD: Final = re.compile(rb"(\w+) = (\d\w*)(.*)\n")
_EXTENT: Final = re.compile(rb"\s*(\d+)\s+(\d+)\s+(\d+)\s*\n")
_MOST_GROUPS: Final = 8192
_MOST_EXTENTS: Final = 1 << 21
_HEADER_SECTORS: Final = 4

_VERSION, _VERSION_MASK = 5, 0xF
_KNOWN_INCOMPAT: Final = 0b1110_1111
"""Of `features_incompat`: all up to parent pointers but bit 4, which asks for a repair. Later ones may keep free space
elsewhere. Source: the superblock's description in the XFS Algorithms & Data Structures book, and Linux 6.12."""
_KNOWN_RO_COMPAT: Final = 0b1111
"""Of `features_ro_compat`: trees of free inodes, of owners, of references; counted inodes. Source: as above."""

_BLANK: Final = re.compile(rb"\s*")
_COVERED: Final = re.compile(
    rb"\s*"
    rb"|LOG REC AT LSN cycle \d+ block \d+ \(0x[0-9a-f]+, 0x[0-9a-f]+\)\s*"
    rb"|=+\s*"
    rb"|TRANS: tid:0x[0-9a-f]+ +#items:\d+ +trans:0x[0-9a-f]+ +q:0x[0-9a-f]+\s*"
    rb"|BUF: cnt:\d+ total:\d+ (?:a:0x[0-9a-f]+ len:\d+ )+\s*"
    rb"|\tBUF: +#regs:\d+ +start blkno:0x0 +len:[1-8] +bmap size:\d+ +flags:0x[0-9a-f]+\s*"
    rb"|\tSUPER Block Buffer:\s*"
)
"""A line of xfs_logprint about a log that holds the superblock and nothing else."""

_Extents = npt.NDArray[np.int64]
"""int64, shape (extents, 3): group, first block within it, blocks."""


@dataclass(frozen=True, slots=True)
class _Geometry:
    """Fields of the superblock, under their names in xfs_db."""

    versionnum: int
    blocksize: int
    sectsize: int
    dblocks: int
    agblocks: int
    agblklog: int
    agcount: int
    logstart: int
    logblocks: int
    inprogress: int
    features_incompat: int
    features_ro_compat: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Read the superblock; SourceError if xfs_db does not print it whole."""
        with tool_output("xfs_db", *_xfs_db(path, "sb 0", "p"), package=_PACKAGE, silent=True) as lines:
            fields = {found[1].decode(): found for line in lines if (found := _FIELD.fullmatch(line))}
        try:
            geometry = cls(**{name: int(fields[name][2], 0) for name in cls.__slots__})
        except (KeyError, ValueError) as error:
            raise SourceError("xfs_db tells too little of it") from error
        if any(b"(bad)" in found[3] for found in fields.values()):
            raise SourceError("its superblock is damaged")
        geometry.check()
        return geometry

    def check(self) -> None:
        """Raise SourceError if this is a file system that is not understood here in full."""
        if self.versionnum & _VERSION_MASK != _VERSION:
            raise SourceError("it is of a version without checksums")
        if self.features_incompat & ~_KNOWN_INCOMPAT or self.features_ro_compat & ~_KNOWN_RO_COMPAT:
            raise SourceError("it asks for a repair, or has features that are not known here")
        if self.inprogress or self.agcount > _MOST_GROUPS:
            raise SourceError("it is not finished, or has too many allocation groups")
        if self.logstart == 0:
            raise SourceError("its log is on another device")

    @property
    def log(self) -> tuple[int, int]:
        """First and end block of the log, counted from the volume's begin."""
        group, within = divmod(self.logstart, 1 << self.agblklog)
        first = group * self.agblocks + within
        return first, first + self.logblocks


def free_of_xfs(path: Path) -> Ranges:
    """List what an XFS file system does not use, as ranges of bytes.

    Args:
        path: the volume, which must not change meanwhile.

    Raises:
        ConfigurationError: a tool is missing.
        SourceError: its maps cannot be relied on.
    """
    geometry = _Geometry.of(path)
    _check_log(path)
    groups = _groups(path, geometry)
    found = _listed(path, "freesp -d", groups)
    if not np.array_equal(found, _listed(path, "freesp -c -d", groups)):
        raise SourceError("its two maps of free space differ")
    return _in_bytes(found, geometry, groups)


def _xfs_db(path: Path, *commands: str) -> list[str]:
    """Put together arguments that make xfs_db run commands, without ever writing."""
    kind = ["-f"] if path.is_file() else []
    return ["-r", *kind, *(word for command in commands for word in ("-c", command)), str(path)]


def _check_log(path: Path) -> None:
    """Raise SourceError if anything in the log may change the maps, or it cannot be read."""
    allowed = None
    with tool_output("xfs_logprint", "-t", str(path), package=_PACKAGE) as lines:
        for line in lines:
            if allowed is not None and allowed.fullmatch(line) is None:
                raise SourceError("its log holds changes: it was not unmounted, nor frozen")
            if allowed is None and b" state: <" in line:
                allowed = _BLANK if line.endswith(b" state: <CLEAN>\n") else _COVERED
    if allowed is None:
        raise SourceError("its log cannot be read")


def _groups(path: Path, geometry: _Geometry) -> _Extents:
    """Read the header of each allocation group: its blocks, those that are free, those set aside for its trees."""
    names = ("seqno", "length", "freeblks", "flcount")
    commands = [
        word for group in range(geometry.agcount) for word in (f"agf {group}", f"p {' '.join(names)}")
    ]
    with tool_output("xfs_db", *_xfs_db(path, *commands), package=_PACKAGE, silent=True) as lines:
        fields = [(found[1].decode(), int(found[2])) for line in lines if (found := _FIELD.fullmatch(line))]
    if [name for name, _ in fields] != [*names] * geometry.agcount:
        raise SourceError("xfs_db tells too little of it")
    told: _Extents = np.array([value for _, value in fields], np.int64).reshape(-1, len(names))
    lengths = told[:, 1]
    is_whole = bool((told[:, 0] == np.arange(geometry.agcount)).all())
    if not is_whole or bool((lengths[:-1] != geometry.agblocks).any()) or lengths.sum() != geometry.dblocks:
        raise SourceError("its allocation groups do not fit together")
    return told[:, 1:]


def _listed(path: Path, command: str, groups: _Extents) -> _Extents:
    """List the free extents of all groups by place, without the blocks that are set aside for the trees.

    Those come first in each group, one by one.
    """
    numbers = array("q")
    with tool_output("xfs_db", *_xfs_db(path, command), package=_PACKAGE, silent=True) as lines:
        for line in lines:
            if found := _EXTENT.fullmatch(line):
                numbers.extend(map(int, found.groups()))
                if len(numbers) > 3 * _MOST_EXTENTS:
                    raise SourceError("its free space lies in too many pieces")
    extents: _Extents = np.array(numbers, np.int64).reshape(-1, 3)
    if bool((np.diff(extents[:, 0]) < 0).any()) or bool((extents[:, 0] >= len(groups)).any()):
        raise SourceError("xfs_db lists its free space in another order than expected")
    begins = np.searchsorted(extents[:, 0], np.arange(len(groups)), "left")
    is_free = np.ones(len(extents), np.bool_)
    for begin, set_aside in zip(begins.tolist(), groups[:, 2].tolist(), strict=True):
        is_free[begin : begin + set_aside] = False
    if bool((extents[~is_free, 2] != 1).any()):
        raise SourceError("xfs_db lists its free space in another order than expected")
    free = extents[is_free]
    return free[np.lexsort((free[:, 1], free[:, 0]))]


def _in_bytes(found: _Extents, geometry: _Geometry, groups: _Extents) -> Ranges:
    """Lay the groups end to end, and make sure that nothing counts as free that cannot be."""
    header_blocks = -(-_HEADER_SECTORS * geometry.sectsize // geometry.blocksize)
    is_outside = (found[:, 1] < header_blocks) | (found[:, 1] + found[:, 2] > groups[found[:, 0], 0])
    begins = found[:, 0] * geometry.agblocks + found[:, 1]
    ranges = np.column_stack((begins, begins + found[:, 2]))
    log_begin, log_stop = geometry.log
    if bool(is_outside.any()) or bool(((ranges[:, 1] > log_begin) & (ranges[:, 0] < log_stop)).any()):
        raise SourceError("it lists as free what it uses itself")
    per_group = np.bincount(found[:, 0], found[:, 2], len(groups)).astype(np.int64)
    if not np.array_equal(per_group, groups[:, 1]):
        raise SourceError("it contradicts itself about what is free")
    free = FreeRanges(geometry.blocksize)
    free.add_all(ranges)
    return free.in_bytes(int(groups[:, 1].sum()), geometry.dblocks)
