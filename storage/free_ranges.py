"""Collecting what a file system says is free, in little memory, and proving that it fits together."""

from __future__ import annotations

from array import array
from typing import Final

import numpy as np
import numpy.typing as npt

from policies.errors import SourceError
from storage.source import Ranges

_MOST_RANGES: Final = 1 << 22
"""64 MiB of memory, for a moment three times that. A volume that is cut up so finely would gain little."""


class FreeRanges:
    """The free ranges of one file system, in its own units, in ascending order.

    Args:
        unit_bytes: size of a block or cluster.
    """

    def __init__(self, unit_bytes: int) -> None:
        self._unit_bytes = unit_bytes
        self._ends = array("q")

    def add(self, first: int, stop: int) -> None:
        """Add the units from `first` to before `stop`.

        Raises:
            SourceError: there are too many ranges to keep.
        """
        if self._ends and self._ends[-1] == first:
            self._ends[-1] = stop
            return
        self._ends.append(first)
        self._ends.append(stop)
        self._check_count()

    def add_all(self, ranges: npt.NDArray[np.int64]) -> None:
        """Add several ranges at once; int64, shape (ranges, 2), ascending, apart from each other.

        Raises:
            SourceError: there are too many ranges to keep.
        """
        if len(ranges):
            self.add(*ranges[0].tolist())
            self._ends.frombytes(np.ascontiguousarray(ranges[1:], np.int64).tobytes())
            self._check_count()

    def _check_count(self) -> None:
        if len(self._ends) > 2 * _MOST_RANGES:
            raise SourceError("its free space lies in too many pieces")

    def in_bytes(self, free_units: int, stop_unit: int) -> Ranges:
        """Return them all, as ranges of bytes.

        Args:
            free_units: how many units the file system says are free, elsewhere than in the map that was read.
            stop_unit: how many units it has.

        Raises:
            SourceError: the ranges are not in order, not within the file system, or not as much as it says.
        """
        ranges: Ranges = np.array(self._ends, np.int64).reshape(-1, 2)
        ends = ranges.reshape(-1)
        is_ordered = bool((ends[1:] >= ends[:-1]).all()) and bool((ranges[:, 1] > ranges[:, 0]).all())
        is_within = not len(ends) or (int(ends[0]) > 0 and int(ends[-1]) <= stop_unit)
        if not (is_ordered and is_within) or int((ranges[:, 1] - ranges[:, 0]).sum()) != free_units:
            raise SourceError("it contradicts itself about what is free")
        return ranges * self._unit_bytes
